import type { FastifyReply } from 'fastify'
import type { Decision } from './decision.js'

/** `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds), and `Retry-After` (seconds, RFC 9110 §10.2.3) where refused. */
export function setHeaders (reply: FastifyReply, { allowed, limit, remaining, resetAfter, retryAfter }: Decision): void {
  reply.header('x-ratelimit-limit', limit.max)
  reply.header('x-ratelimit-remaining', remaining)
  reply.header('x-ratelimit-reset', seconds(resetAfter))
  if (!allowed) reply.header('retry-after', seconds(Number.isFinite(retryAfter) ? retryAfter : limit.window))
}

/** Rounded up: a client that waits as long as it is told must not come too early. */
function seconds (ms: number): number {
  return Math.ceil(ms / 1000)
}
