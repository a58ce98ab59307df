import fastifyCookie from '@fastify/cookie'
import fastifySession from '@fastify/session'
import fp from 'fastify-plugin'
import { keyPrefixOf, resolveClient } from '../shared/client.js'
import { guardRedis } from '../shared/guard.js'
import { createAdapter } from './adapter.js'
import { createMemoryStore } from './memory-store.js'
import { resolveSessionOptions, type SessionPluginOptions } from './options.js'
import { createRedisStore } from './redis-store.js'
import { createSessions, type Sessions } from './sessions.js'

declare module 'fastify' {
  interface FastifyInstance {
    sessions: Sessions
  }
}

export type { SessionPluginOptions } from './options.js'
export type { Sessions } from './sessions.js'
export type { SessionInfo } from './store.js'

/**
 * `@fastify/session` on Redis: two requests that change different properties both keep theirs, and what was destroyed
 * stays destroyed.
 *
 * @throws `FST_REDIS_SUITE_SESSION_INVALID_OPTION` at registration; while the store cannot be asked, requests with a
 * session cookie are answered 503 with `FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE`
 */
export const session = fp<SessionPluginOptions>(async function session (fastify, given) {
  const options = resolveSessionOptions(given)
  const client = resolveClient(fastify, 'session', given.redis)
  const store = client === undefined
    ? createMemoryStore(options.maxSessions, options)
    : createRedisStore(client, keyPrefixOf(client), options)
  const run = client === undefined
    ? <T>(operation: () => Promise<T>) => operation()
    : guardRedis(client, fastify.log, options.timeout).run
  const adapter = createAdapter(store, run, options.userId, fastify.log)

  fastify.decorate('sessions', createSessions(store, run))
  if (!fastify.hasDecorator('parseCookie')) await fastify.register(fastifyCookie)

  // A cookie that was signed with an older secret is signed anew; `@fastify/session`, whose hook follows, would clear it.
  fastify.addHook('onSend', async request => {
    const { session, cookies } = request
    const cookie = cookies[options.cookieName]
    if (!cookie || !session || !adapter.isStored(session) || cookie.endsWith(session.encryptedSessionId)) return
    await session.save()
    cookies[options.cookieName] = (given.cookiePrefix ?? '') + session.encryptedSessionId
  })
  await fastify.register(fastifySession, { ...options.session, store: adapter })
  fastify.addHook('onRequest', (request, _reply, done) => { adapter.bind(request); done() })
}, { name: 'fastify-redis-suite/session', fastify: '5.x' })

export default session
