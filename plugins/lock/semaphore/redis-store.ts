import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { isOutage, reasonOf } from '../../shared/plugin/errors.js'
import { keySpace, safeId } from '../../shared/plugin/keys.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { guardRedis } from '../../shared/redis/guard.js'
import type { RedisPort } from '../../shared/redis/port.js'
import { sendScript, type Script } from '../../shared/redis/script.js'
import { StoreUnavailableError } from '../errors.js'
import type { ReleaseSubscription } from '../release-subscription.js'
import { acquireScript, extendScript, holdersScript, releaseScript } from './scripts.js'
import { WITHOUT_RECORDS, type SemaphoreStore } from './store.js'

interface RedisSemaphoreOptions {
  client: RedisPort
  prefix: string
  timeout: Milliseconds
  log: FastifyBaseLogger
  releases: ReleaseSubscription
  clock: Clock
}

/** Holds the permits of semaphores in Redis: each method is one script. */
export function createRedisSemaphores (
  { client, prefix, timeout, log, releases, clock }: RedisSemaphoreOptions
): SemaphoreStore {
  const guard = guardRedis(client, log, timeout, 'lock', clock, { isPatient: true })
  const spaces = ['permits', 'weights', 'waiters', 'waiting'].map(what => keySpace(prefix, 'lock', what))
  const { channel } = releases

  /** The keys of a semaphore share a hash tag. */
  const keysOf = (name: string) => spaces.map(space => `${space}{${safeId(name)}}`)

  async function run (script: Script, keys: string[], args: Array<string | number>): Promise<unknown> {
    try {
      return await guard.run(() => sendScript(client, script, keys, args, clock))
    } catch (error) {
      const reason = reasonOf(error)
      if (!isOutage(error)) log.warn({ plugin: 'lock', reason }, 'lock: Redis refuses permits')
      // The client's error has the command's arguments, which are secret.
      throw new StoreUnavailableError({ cause: new Error(reason) })
    }
  }

  async function used (name: string): Promise<number> {
    const reply = await run(holdersScript, keysOf(name).slice(0, 2), [])
    const holders: unknown[] = Array.isArray(reply) ? reply : []
    return holders.reduce<number>((sum, value, i) => i % 2 === 1 ? sum + Number(value) : sum, 0)
  }

  return {
    locksOf: ({ permits, weight }) => ({
      ...WITHOUT_RECORDS,
      hasQueue: true,
      async acquire (name, owner, ttl, queueTtl) {
        const reply = await run(acquireScript, keysOf(name), [owner, ttl, weight, permits, queueTtl, channel])
        const [acquired, value] = Array.isArray(reply) ? reply as unknown[] : []
        if (acquired === 1) return { kind: 'acquired', token: Number(value) }
        if (queueTtl > 0) releases.start()
        return { kind: 'locked', remaining: Math.max(1, Number(value)) }
      },
      extend: async (name, owner, ttl) => await run(extendScript, keysOf(name).slice(0, 2), [owner, ttl]) === 1,
      release: async (name, owner) => await run(releaseScript, keysOf(name), [owner, channel]) === 1,
      isLocked: async name => await used(name) + weight > permits,
      notificationName: (_name, owner) => owner,
      close () {}
    }),
    used
  }
}
