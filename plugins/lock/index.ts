import fp from 'fastify-plugin'
import { findClient, keyPrefixOf, resolveClient } from '../shared/redis/client.js'
import { alreadyRegisteredError } from '../shared/plugin/errors.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { Waiters } from './waiters.js'
import { Locker } from './locker.js'
import { createMemoryStore } from './memory-store.js'
import { resolvePluginOptions, type LockPluginOptions } from './options.js'
import { createRedisStore } from './redis-store.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Locks that all instances respect. (`fastify.lock` is what Fastify's types have for the method LOCK of WebDAV.) */
    locks: Locks
  }
}

/** What `fastify.locks` offers. */
export type Locks = Pick<Locker, 'using' | 'acquire' | 'isLocked'>

export type { HeldLock, LockHandle } from './held-lock.js'
export type { Section } from './locker.js'
export type { LockOptions, LockPluginOptions } from './options.js'

/**
 * Distributed locks: extended while they are used, released only by their owner, with a signal when they are lost and a token
 * by which a resource refuses who does not know that yet.
 *
 * @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION`, `FST_REDIS_SUITE_LOCK_ALREADY_REGISTERED` at registration
 */
export const lock = fp<LockPluginOptions>(async function lock (fastify, given) {
  const options = resolvePluginOptions(given)
  if (Object.hasOwn(fastify, 'locks')) throw alreadyRegisteredError('lock', 'fastify.locks')
  watchRoutes(fastify)
  const bells = new Waiters(options.clock)
  // Of several nodes none is the one that the other plugins use; their prefix is the app's all the same.
  const client = given.nodes === undefined ? resolveClient(fastify, 'lock', given.redis) : findClient(fastify, 'lock', undefined)
  const nodes = options.nodes ?? (client === undefined ? [] : [client])
  const store = nodes.length === 0
    ? createMemoryStore(bells, options.clock)
    : createRedisStore({ nodes, prefix: keyPrefixOf(client), timeout: options.timeout, log: fastify.log, calls: bells, clock: options.clock })
  const locker = new Locker({ ...options, store, bells, log: fastify.log })

  fastify.decorate('locks', {
    using: locker.using.bind(locker),
    acquire: locker.acquire.bind(locker),
    isLocked: locker.isLocked.bind(locker)
  })
  // A request that waits keeps the server from closing; one that has its lock may finish what it does.
  fastify.addHook('preClose', async () => locker.stopWaiting())
  fastify.addHook('onClose', async () => await locker.close())
}, { name: 'fastify-redis-suite/lock', fastify: '5.x' })

export default lock
