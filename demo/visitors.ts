import type { FastifyInstance, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    visitors: Visitors
  }
}

export interface Visitors {
  /** Counts one, today; nobody waits for it, and it never fails. */
  seen (visitor: string): void
  /** How many different ones there were today and on the days before it, 7 in all at most; null where that is not known now. */
  count (days: number): Promise<number | null>
}

const DAY_MS = 24 * 60 * 60 * 1000
const DAYS_KEPT = 7
/** What is no visit: probes, and the page that describes the routes. */
const NO_VISIT = /^\/(?:health|docs|metrics)(?:\/|$)/

/** Today and the days before it, by UTC. */
function lastDays (count: number): string[] {
  const now = Date.now()
  return Array.from({ length: count }, (_, i) => new Date(now - i * DAY_MS).toISOString().slice(0, 10))
}

/** Visitors of each day: a HyperLogLog a day in Redis, 12 kB however many they are, right to about 1 %; without Redis their names. */
export const visitors = fp(async function visitors (fastify) {
  const store = fastify.hasDecorator('redis') ? inRedis(fastify) : inMemory()
  fastify.decorate('visitors', store)
  fastify.addHook('onResponse', (request, reply, done) => {
    const { url } = request.routeOptions
    if (url !== undefined && !NO_VISIT.test(url) && reply.statusCode < 400) store.seen(nameOf(request))
    done()
  })
}, { name: 'demo/visitors', dependencies: ['fastify-redis-suite/session'] })

function nameOf ({ session, ip }: FastifyRequest): string {
  return session?.userId === undefined ? `address ${ip}` : `user ${session.userId}`
}

function inRedis ({ redis, log }: FastifyInstance): Visitors {
  // One hash tag for all, as days are counted together.
  const keyOf = (day: string) => `demo:{visitors}:${day}`
  let isRefusing = false

  async function add (visitor: string): Promise<void> {
    const key = keyOf(lastDays(1)[0] ?? '')
    try {
      // What comes of the second is not looked at: the next visitor does it again.
      await Promise.all([redis.pfadd(key, visitor), redis.pexpire(key, (DAYS_KEPT + 1) * DAY_MS)])
      if (isRefusing) log.info('visitors: counted again')
      isRefusing = false
    } catch (error) {
      if (!isRefusing) log.warn({ reason: error instanceof Error ? error.message : String(error) }, 'visitors: not counted for now')
      isRefusing = true
    }
  }

  return {
    seen (visitor) { add(visitor).catch(() => {}) },
    count: async days => await redis.pfcount(...lastDays(days).map(keyOf)).catch(() => null)
  }
}

/** So many names a day are kept, exactly; whoever comes then is not counted any more. */
const MOST_A_DAY = 100_000

function inMemory (): Visitors {
  const days = new Map<string, Set<string>>()
  return {
    seen (visitor) {
      const [today = ''] = lastDays(1)
      const names = days.get(today) ?? new Set()
      if (!days.has(today)) {
        const kept = lastDays(DAYS_KEPT)
        for (const day of days.keys()) if (!kept.includes(day)) days.delete(day)
        days.set(today, names)
      }
      if (names.size < MOST_A_DAY) names.add(visitor)
    },
    count: async count => new Set(lastDays(count).flatMap(day => [...days.get(day) ?? []])).size
  }
}
