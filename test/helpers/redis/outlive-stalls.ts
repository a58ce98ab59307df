import type { Cluster, Redis } from 'ioredis'

/**
 * Keeps the leases that scripts write to Redis for longer than they are written with. A TTL runs in real time too, and
 * on a busy machine more than a lease may pass between two renewals by the test's clock.
 *
 * @param part - a part of the keys of the leases
 * @returns the last such key, and how often it was written
 */
export function outliveStalls (redis: Redis | Cluster, part: string): { key: string, writes: number } {
  const lease = { key: '', writes: 0 }
  const evalsha = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  Object.assign(redis, {
    async evalsha (...args: unknown[]) {
      const key = String(args[2])
      const reply = evalsha(...args)
      if (key.includes(part)) {
        Object.assign(lease, { key, writes: lease.writes + 1 })
        await redis.pexpire(key, 3_600_000)
      }
      return await reply
    }
  })
  return lease
}
