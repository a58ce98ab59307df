import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    visitors: Visitors
  }
}

export interface Visitors {
  /** Counts a visitor of today in the background. Never throws. */
  record (visitor: string): void
  /** Returns the number of different visitors of the last days, 7 at most; null if unknown at present. */
  count (days: number): Promise<number | null>
}

const DAY_MS = 24 * 60 * 60 * 1000
const RETENTION_DAYS = 7
/** Probes, and the documentation of the routes, are not counted. */
const UNCOUNTED = /^\/(?:health|docs|metrics)(?:\/|$)/

/** Returns today and the days before it, in UTC. */
function lastDays (count: number): string[] {
  const now = Date.now()
  return Array.from({ length: count }, (_, i) => new Date(now - i * DAY_MS).toISOString().slice(0, 10))
}

/**
 * Counts the visitors of each day: in Redis with a HyperLogLog per day (12 kB, accurate to about 1 %), or else exactly,
 * in memory.
 */
export const visitors = fp(async function visitors (fastify) {
  const store = fastify.hasDecorator('redis') ? inRedis(fastify) : inMemory()
  fastify.decorate('visitors', store)
  fastify.addHook('onResponse', (request, reply, done) => {
    const { url } = request.routeOptions
    if (url !== undefined && !UNCOUNTED.test(url) && reply.statusCode < 400) store.record(visitorOf(request))
    done()
  })
}, { name: 'demo/visitors', dependencies: ['fastify-redis-suite/session'] })

function visitorOf ({ session, ip }: FastifyRequest): string {
  return session?.userId === undefined ? `address ${ip}` : `user ${session.userId}`
}

function inRedis ({ redis, log }: FastifyInstance): Visitors {
  // One hash tag for all days, because one command counts several of them.
  const keyOf = (day: string) => `demo:{visitors}:${day}`
  let isRefusing = false

  async function add (visitor: string): Promise<void> {
    const key = keyOf(lastDays(1)[0] ?? '')
    try {
      // A failure of the second command does not matter: the next visitor repeats it.
      await Promise.all([redis.pfadd(key, visitor), redis.pexpire(key, (RETENTION_DAYS + 1) * DAY_MS)])
      if (isRefusing) log.info('visitors: counting again')
      isRefusing = false
    } catch (error) {
      if (!isRefusing) {
        log.warn({ reason: error instanceof Error ? error.message : String(error) }, 'visitors: not counted for now')
      }
      isRefusing = true
    }
  }

  return {
    record (visitor) { add(visitor).catch(() => {}) },
    count: async days => await redis.pfcount(...lastDays(days).map(keyOf)).catch(() => null)
  }
}

/** Further visitors of a day are not counted. */
const MAX_VISITORS_PER_DAY = 100_000

function inMemory (): Visitors {
  const days = new Map<string, Set<string>>()
  return {
    record (visitor) {
      const [today = ''] = lastDays(1)
      const names = days.get(today) ?? new Set()
      if (!days.has(today)) {
        const retained = lastDays(RETENTION_DAYS)
        for (const day of days.keys()) if (!retained.includes(day)) days.delete(day)
        days.set(today, names)
      }
      if (names.size < MAX_VISITORS_PER_DAY) names.add(visitor)
    },
    count: async count => new Set(lastDays(count).flatMap(day => [...days.get(day) ?? []])).size
  }
}
