import fastifyCookie from '@fastify/cookie'
import fastifySession from '@fastify/session'
import fp from 'fastify-plugin'
import { keyPrefixOf, resolveClient } from '../shared/redis/client.js'
import { alreadyRegisteredError } from '../shared/plugin/errors.js'
import { subscribeToChannel } from '../shared/redis/channel-subscription.js'
import { guardRedis } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { SuiteSessionStore } from './fastify-session-store.js'
import { createEncryption } from './store/encryption.js'
import { SessionStatsCounter } from './stats.js'
import { withOwnHooks } from './hooks.js'
import { createLogins, decorateLogins, type LoginOptions } from './login.js'
import { createMemoryStore } from './store/memory-store.js'
import { resolveSessionOptions, type SessionPluginOptions } from './options.js'
import { createRedisStore } from './store/redis-store.js'
import { SessionCodec } from './session-codec.js'
import { createSessions, type Sessions } from './sessions.js'
import { endedChannel, renewalOf } from './store/store.js'
import type { UserId } from './user-id.js'
import { UserIndex } from './store/user-index.js'
import { lifeOf, Watches } from './watches.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Lists, watches and ends the sessions of users.
     *
     * @example
     * await app.sessions.destroyAll(userId)
     */
    sessions: Sessions
  }
  // Inherited, so that a login library may declare the same names.
  interface FastifyRequest extends LoginDecorators {}
  interface FastifyContextConfig {
    /** `false`: the route has no session, and `request.session` is null. */
    session?: boolean
  }
}

/** Decorators of requests, unless another plugin has taken the names. */
export interface LoginDecorators {
  /**
   * Logs a user in: the session gets a new id, and is saved before this returns.
   *
   * @throws `FST_REDIS_SUITE_SESSION_TOO_MANY`, `FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE`
   */
  login (userId: UserId, options?: LoginOptions): Promise<void>
  /** Destroys the session, and clears the client's cookie. */
  logout (): Promise<void>
}

export type { Duration } from '../shared/plugin/duration.js'
export type { SessionStats } from './stats.js'
export type { LoginOptions, Logins } from './login.js'
export type { EncryptionKey, SessionPluginOptions } from './options.js'
export type { SessionInfo, Sessions } from './sessions.js'
export type { UserId } from './user-id.js'

/**
 * `@fastify/session` on Redis. Concurrent requests that change different properties keep both changes, and a destroyed
 * session stays destroyed. While the store is unavailable, requests with a session cookie get 503
 * (`FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE`).
 *
 * @throws `FST_REDIS_SUITE_SESSION_INVALID_OPTION`, `FST_REDIS_SUITE_SESSION_ALREADY_REGISTERED` at registration
 *
 * @example
 * await app.register(session, { secret: process.env.SESSION_SECRET })
 * app.post('/login', async request => { await request.login(await checkPassword(request.body)) })
 */
export const session = fp<SessionPluginOptions>(async function session (fastify, given) {
  const options = resolveSessionOptions(given)
  // With another session plugin each request would have two sessions, and one cookie.
  if (fastify.hasRequestDecorator('session')) throw alreadyRegisteredError('session', 'request.session')
  watchRoutes(fastify)
  const client = resolveClient(fastify, 'session', given.redis)
  const run = client === undefined
    ? <T>(operation: () => Promise<T>) => operation()
    : guardRedis(client, fastify.log, options.timeout, 'session', options.clock, { isPatient: true }).run
  const store = client === undefined
    ? createMemoryStore(options.maxSessions, options, options.clock)
    : createRedisStore(client, keyPrefixOf(client), options, run, options.clock)
  const codec = new SessionCodec(createEncryption(options.encrypt ?? []), fastify.log)
  const renewal = renewalOf(options.idleTimeout)
  const stats = new SessionStatsCounter(renewal, options.clock)
  const watches = new Watches({
    lifeOf: handle => lifeOf(handle, { store, run, codec }),
    follow: client && (listeners => subscribeToChannel({
      client,
      plugin: 'session',
      channel: endedChannel(client, keyPrefixOf(client)),
      log: fastify.log,
      without: 'session: cannot subscribe to the end of sessions; a stream ends up to a heartbeat after its session',
      clock: options.clock,
      ...listeners
    })),
    clock: options.clock,
    log: fastify.log
  })
  const users = new UserIndex(store, run, options, stats, handle => watches.ended(handle))
  const cookie = options.session.cookie ?? {}
  const sessionStore = new SuiteSessionStore({
    ...options, cookie, store, run, codec, users, renewal, stats, log: fastify.log
  })

  const logins = createLogins({ users, userId: options.userId, property: options.userProperty })
  fastify.decorate('sessions', createSessions({ users, codec, stats, watches, logins }))
  if (options.decorators) decorateLogins(fastify, logins, options.userProperty)
  fastify.addHook('onClose', async () => watches.close())
  if (!fastify.hasDecorator('parseCookie')) await fastify.register(fastifyCookie)
  await fastify.register(fp(async instance => {
    const { rolling, saveUninitialized } = options.session
    const hookOptions = {
      ...options, rolling: rolling !== false, savesEmpty: saveUninitialized === true, cookie, log: fastify.log
    }
    const wrapped = withOwnHooks(instance, sessionStore, hookOptions)
    await new Promise<void>((resolve, reject) => {
      fastifySession(wrapped, { ...options.session, store: sessionStore }, error => error ? reject(error) : resolve())
    })
  }, { name: '@fastify/session' }))
}, { name: 'fastify-redis-suite/session', fastify: '5.x || 6.x' })

export default session
