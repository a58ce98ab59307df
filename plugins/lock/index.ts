import type { FastifyContextConfig } from 'fastify'
import fp from 'fastify-plugin'
import { findClient, keyPrefixOf, portOf, resolveClient } from '../shared/redis/client.js'
import { alreadyRegisteredError, invalidOptionError, namingRoute } from '../shared/plugin/errors.js'
import { DEFAULT_TIMEOUT_MS, defaultTimeout } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { Waiters } from './waiters.js'
import { Locker } from './locker.js'
import { createMemoryStore } from './memory-store.js'
import { resolvePluginOptions, type LockPluginOptions } from './options.js'
import { createRedisStore } from './redis-store.js'
import { NoQuorumError } from './errors.js'
import { ReleaseSubscription } from './release-subscription.js'
import { resolveConcurrency, type ConcurrencyOptions } from './concurrency/options.js'
import { RouteConcurrency } from './concurrency/route-concurrency.js'
import { createMemorySemaphores } from './semaphore/memory-store.js'
import { createRedisSemaphores } from './semaphore/redis-store.js'
import { createSemaphores, type Semaphore, type SemaphoreOptions } from './semaphore/semaphore.js'
import type { LockStore } from './store.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** How many requests of the route are handled at once, on all instances together. */
    concurrency?: ConcurrencyOptions | false
  }
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
export interface Locks extends Pick<Locker, 'using' | 'once' | 'acquire' | 'isLocked'> {
  /**
   * Returns a semaphore: it lets `permits` callers work at once, on all instances together.
   *
   * @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION`
   *
   * @example
   * const exports = app.locks.semaphore('exports', { permits: 3 })
   */
  semaphore (name: string, options: SemaphoreOptions): Semaphore
}

export type { Duration } from '../shared/plugin/duration.js'
export type { ConcurrencyOptions } from './concurrency/options.js'
export type { HeldLock, LockHandle } from './held-lock.js'
export type { OnceOutcome, Section } from './locker.js'
export type { LockOptions, LockPluginOptions, OnceOptions } from './options.js'
export type { PermitRequest, Semaphore, SemaphoreOptions } from './semaphore/semaphore.js'

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
  const waiters = new Waiters(options.clock)
  // The nodes of a quorum are not the app's client, but their keys have its prefix.
  const client = given.nodes === undefined
    ? resolveClient(fastify, 'lock', given.redis)
    : findClient(fastify, 'lock', undefined)
  const nodes = options.nodes?.map(portOf) ?? (client === undefined ? [] : [client])
  const timeout = options.timeout ?? Math.max(DEFAULT_TIMEOUT_MS, ...nodes.map(defaultTimeout))
  const releases = new ReleaseSubscription({
    nodes, prefix: keyPrefixOf(client), log: fastify.log, listener: waiters, clock: options.clock
  })
  const store = nodes.length === 0
    ? createMemoryStore(waiters, options.clock)
    : createRedisStore({
      nodes,
      prefix: keyPrefixOf(client),
      timeout,
      log: fastify.log,
      releases,
      clock: options.clock
    })
  const lockers: Locker[] = []
  let isClosing = false
  const createLocker = (store: LockStore): Locker => {
    const locker = new Locker({ ...options, timeout, store, waiters, log: fastify.log })
    lockers.push(locker)
    if (isClosing) locker.stopWaiting()
    return locker
  }
  const locker = createLocker(store)
  const [node] = nodes
  const semaphores = node === undefined
    ? createMemorySemaphores(waiters, options.clock)
    : createRedisSemaphores({
      client: node, prefix: keyPrefixOf(client), timeout, log: fastify.log, releases, clock: options.clock
    })
  const shared = createSemaphores({ store: semaphores, defaults: options, createLocker })

  const local = createSemaphores({
    store: createMemorySemaphores(waiters, options.clock), defaults: options, createLocker
  })
  const concurrency = new RouteConcurrency({
    shared: shared.lockerOf, local: local.lockerOf, instances: options.instances
  })
  const watch = watchRoutes(fastify).add('lock', fastify, () => false)
  fastify.addHook('onRoute', route => {
    watch(route)
    const config: FastifyContextConfig['concurrency'] = route.config?.concurrency
    if (config === undefined || config === null || config === false) return
    namingRoute(route, () => {
      if (typeof config !== 'object') {
        throw invalidOptionError('lock', 'config.concurrency', config, 'false or an object')
      }
      if (nodes.length > 1) throw new NoQuorumError()
      concurrency.limit(route, resolveConcurrency(config))
    })
  })

  fastify.decorate('locks', {
    using: locker.using.bind(locker),
    once: locker.once.bind(locker),
    acquire: locker.acquire.bind(locker),
    isLocked: locker.isLocked.bind(locker),
    semaphore (name, given) {
      if (nodes.length > 1) throw new NoQuorumError()
      return shared.semaphore(name, given)
    }
  })
  // A request that waits for a lock would delay the close; one that has its lock may end its section.
  fastify.addHook('preClose', async () => {
    isClosing = true
    for (const each of lockers) each.stopWaiting()
  })
  fastify.addHook('onClose', async () => {
    await Promise.all(lockers.map(each => each.close()))
    releases.close()
  })
}, { name: 'fastify-redis-suite/lock', fastify: '5.x || 6.x' })

export default lock
