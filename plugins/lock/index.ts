import fp from 'fastify-plugin'
import { findClient, keyPrefixOf, portOf, resolveClient } from '../shared/redis/client.js'
import { alreadyRegisteredError } from '../shared/plugin/errors.js'
import { DEFAULT_TIMEOUT_MS, defaultTimeout } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { Waiters } from './waiters.js'
import { Locker } from './locker.js'
import { createMemoryStore } from './memory-store.js'
import { resolvePluginOptions, type LockPluginOptions } from './options.js'
import { createRedisStore } from './redis-store.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Locks that all instances respect. (Fastify's types have `fastify.lock` for the method LOCK of WebDAV.)
     *
     * @example
     * await app.locks.using(`invoice:${id}`, async (signal, { token }) => await save(id, token))
     */
    locks: Locks
  }
}

/** The methods of `fastify.locks`. */
export interface Locks extends Pick<Locker, 'using' | 'once' | 'acquire' | 'isLocked'> {}

export type { Duration } from '../shared/plugin/duration.js'
export type { HeldLock, LockHandle } from './held-lock.js'
export type { OnceOutcome, Section } from './locker.js'
export type { LockOptions, LockPluginOptions, OnceOptions } from './options.js'

/**
 * Distributed locks: extended while they are used, and released by their owner only. A signal reports a lost lock, and
 * a fencing token lets a resource refuse the writes of a former holder.
 *
 * @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION`, `FST_REDIS_SUITE_LOCK_ALREADY_REGISTERED` at registration
 *
 * @example
 * await app.register(lock, { ttl: '10s' })
 * await app.locks.using('report', async signal => await writeReport({ signal }))
 */
export const lock = fp<LockPluginOptions>(async function lock (fastify, given) {
  const options = resolvePluginOptions(given)
  if (Object.hasOwn(fastify, 'locks')) throw alreadyRegisteredError('lock', 'fastify.locks')
  watchRoutes(fastify)
  const waiters = new Waiters(options.clock)
  // The nodes of a quorum are not the app's client, but their keys have its prefix.
  const client = given.nodes === undefined
    ? resolveClient(fastify, 'lock', given.redis)
    : findClient(fastify, 'lock', undefined)
  const nodes = options.nodes?.map(portOf) ?? (client === undefined ? [] : [client])
  const timeout = options.timeout ?? Math.max(DEFAULT_TIMEOUT_MS, ...nodes.map(defaultTimeout))
  const store = nodes.length === 0
    ? createMemoryStore(waiters, options.clock)
    : createRedisStore({
      nodes,
      prefix: keyPrefixOf(client),
      timeout,
      log: fastify.log,
      listener: waiters,
      clock: options.clock
    })
  const locker = new Locker({ ...options, timeout, store, waiters, log: fastify.log })

  fastify.decorate('locks', {
    using: locker.using.bind(locker),
    once: locker.once.bind(locker),
    acquire: locker.acquire.bind(locker),
    isLocked: locker.isLocked.bind(locker)
  })
  // A request that waits for a lock would delay the close; one that has its lock may end its section.
  fastify.addHook('preClose', async () => locker.stopWaiting())
  fastify.addHook('onClose', async () => await locker.close())
}, { name: 'fastify-redis-suite/lock', fastify: '5.x || 6.x' })

export default lock
