import type { FastifyReply } from 'fastify'
import { storedHeaders, restoreHeaders } from './stored-headers.js'
import type { ResolvedRoute } from './options.js'
import type { RecordedResponse } from './store.js'

// They too ask the client to try again.
const TRY_AGAIN = new Set([408, 425, 429])

/** Whether an answer stands: a repetition is to have the same. */
export function isFinal (status: number): boolean {
  return status < 500 && !TRY_AGAIN.has(status)
}

/**
 * @param before - the headers before the handler ran
 * @returns undefined where the body is not known yet, as it is a stream
 */
export function recordedResponse (reply: FastifyReply, payload: unknown, { headers, maxBodySize }: ResolvedRoute, before: object): RecordedResponse | undefined {
  const body = bytesOf(payload)
  if (body === undefined) return undefined
  return { status: reply.statusCode, headers: storedHeaders(reply, headers, before), body: body !== null && body.length > maxBodySize ? 'too-large' : body }
}

function bytesOf (payload: unknown): Buffer | null | undefined {
  if (payload === undefined || payload === null) return null
  // Copied, as who made it may write into it again.
  return typeof payload === 'string' || payload instanceof Uint8Array ? Buffer.from(payload) : undefined
}

/** Gives the answer once more. Hooks of others do with it what they do with all answers. */
export function replay (reply: FastifyReply, { status, headers, body }: RecordedResponse): FastifyReply {
  return reply.code(status).headers(headers).header('idempotency-replayed', 'true').send(body ?? undefined)
}

/** It was kept behind the hooks of the app, so what these have made of it once more does not count. @returns its body */
export function giveAgain (reply: FastifyReply, { status, headers, body }: RecordedResponse, route: ResolvedRoute): unknown {
  restoreHeaders(reply, route.headers, headers)
  reply.code(status)
  return body
}
