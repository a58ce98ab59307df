import { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type } from 'typebox'
import { responses } from './schemas.js'

declare module 'fastify' {
  interface Session {
    visits?: number
  }
}

const ALWAYS = { pressureHandler: () => {} }
/** Requests of the probes, which only this process sends. */
const PROBE = { rateLimit: false, ...ALWAYS } as const
const PROBED = {
  logLevel: 'warn',
  schema: { hide: true },
  // They have no limit, so clients of the network must not reach them.
  onRequest: async ({ raw }: FastifyRequest, reply: FastifyReply) => {
    if (raw instanceof IncomingMessage) return reply.callNotFound()
  }
} as const

const FaultName = Type.Union(
  (['none', 'hang', 'kill', 'slow', 'full', 'read-only'] as const).map(name => Type.Literal(name))
)

/** The routes that break the Redis that the demo has started. They are registered on no other Redis. */
export const breakRedis: FastifyPluginAsyncTypebox = async function breakRedis (fastify) {
  const { ownRedis } = fastify

  fastify.post('/live/redis', {
    schema: {
      tags: ['live'],
      summary: "Break the demo's own Redis, or mend it; for the page of this origin only",
      body: Type.Object({ fault: FaultName }, { additionalProperties: false, examples: [{ fault: 'none' }] }),
      response: responses(Type.Object({ fault: FaultName, since: Type.Integer() }), 'The fault is in effect.', 403)
    },
    config: { rateLimit: { max: 120, timeWindow: '1 minute' }, session: false, ...ALWAYS },
    onRequest: async (request, reply) => {
      if (!isSameOrigin(request)) return reply.forbidden('only the page of this origin may break Redis')
    }
  }, async ({ body: { fault } }) => {
    await ownRedis.setFault(fault === 'none' ? undefined : fault)
    return { fault, since: ownRedis.state.since }
  })

  fastify.get('/live/redis/page', {
    ...PROBED,
    config: { ...PROBE, session: false, cache: { ttl: '2s', staleWhileRevalidate: 0, public: true } }
  },
  async () => ({ renderedAt: new Date().toISOString() }))

  fastify.post('/live/redis/visit', { ...PROBED, config: PROBE }, async ({ session }) => {
    session.visits = (session.visits ?? 0) + 1
    return { visits: session.visits }
  })

  fastify.post('/live/redis/once', {
    ...PROBED,
    config: { ...PROBE, session: false, idempotency: { ttl: '10s', scope: () => 'probe' } }
  },
  async () => ({ done: true }))
}

/**
 * Whether the page of this origin, or a program that is no browser, sent the request. A browser names the origin of a
 * page that posts. A page whose own name leads to this machine (DNS rebinding) has a host name, so only `localhost` and
 * addresses are accepted as the host.
 */
function isSameOrigin ({ headers, host, hostname }: FastifyRequest): boolean {
  const { origin, 'sec-fetch-site': site } = headers
  if (hostname !== 'localhost' && isIP(hostname.replaceAll(/^\[|\]$/g, '')) === 0) return false
  if (site !== undefined && site !== 'same-origin') return false
  return origin === undefined || (URL.canParse(origin) && new URL(origin).host === host)
}
