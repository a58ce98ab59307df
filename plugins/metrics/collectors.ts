import type { FastifyInstance } from 'fastify'
import { boundedLabel } from './labels.js'
import type { FoundSource, MetricSource, Sample } from './metric-registry.js'

// The parts of other plugins' decorators that are read. Any plugin with the same decorator is read as well.

interface CacheCounts {
  hits: number
  misses: number
  stale: number
  coalesced: number
  stored: number
  storedBytes: number
  l1Hits: number
  l1Entries: number
  l1Bytes: number
  l1Evicted: number
}

interface CacheLike {
  stats (): { names: Record<string, CacheCounts>, invalidations: number, storeErrors: number }
}

interface WriteBehindLike {
  writeBehindStats (): Promise<Record<string, Record<'accepted' | 'refused' | 'written' | 'failed' | 'died' |
    'backlog' | 'deadLetters' | 'oldestMs', number>>>
}

interface RateLimiterLike {
  on (event: 'allowed' | 'refused' | 'banned', listener: (event: { scope: string }) => void): () => void
  on (event: 'error', listener: () => void): () => void
}

interface SessionsLike {
  stats (): { created: number, destroyed: number, active: number }
}

interface EventsLike {
  stats (): Promise<ReadonlyArray<{ stream: string, group: string, lag: number, pending: number, deadLetters: number }>>
}

interface HealthLike {
  results (): Promise<Record<string, ReadonlyArray<{ status: string }>>>
}

/** Returns a decorator of the context; undefined if there is none with this member. */
function decorated<T extends object> (fastify: FastifyInstance, name: string, member: keyof T & string): T | undefined {
  const value: unknown = fastify.hasDecorator(name) ? Reflect.get(fastify, name) : undefined
  return typeof value === 'object' && value !== null && Reflect.get(value, member) !== undefined
    ? value as T
    : undefined
}

/** Finds the sources of a context, except its Redis clients. @param maxValues - see {@link boundedLabel} */
export function findSources (fastify: FastifyInstance, maxValues: number): FoundSource[] {
  const found: FoundSource[] = []
  const cache = decorated<CacheLike>(fastify, 'cache', 'stats')
  if (cache !== undefined) {
    found.push({ observed: cache, create: () => ({ kind: 'cache', read: () => cacheSamples(cache, maxValues) }) })
  }
  const writeBehind = decorated<WriteBehindLike>(fastify, 'cache', 'writeBehindStats')
  // A source of its own, as the cache's statistics never wait for Redis.
  if (writeBehind !== undefined) {
    const read = async () => writeBehindSamples(await writeBehind.writeBehindStats())
    found.push({ observed: writeBehind.writeBehindStats, create: () => ({ kind: 'writeBehind', read }) })
  }
  const limiter = decorated<RateLimiterLike>(fastify, 'rateLimiter', 'on')
  if (limiter !== undefined) found.push({ observed: limiter, create: () => limiterSource(limiter, maxValues) })
  const sessions = decorated<SessionsLike>(fastify, 'sessions', 'stats')
  if (sessions !== undefined) {
    found.push({ observed: sessions, create: () => ({ kind: 'session', read: () => sessionSamples(sessions) }) })
  }
  const events = decorated<EventsLike>(fastify, 'events', 'stats')
  if (events !== undefined) found.push({ observed: events, create: () => streamSource(events, maxValues) })
  const health = decorated<HealthLike>(fastify, 'health', 'results')
  if (health !== undefined) {
    found.push({
      observed: health, create: () => ({ kind: 'health', read: async () => healthSamples(await health.results()) })
    })
  }
  return found
}

function cacheSamples (cache: CacheLike, maxValues: number): Sample[] {
  const { names, invalidations, storeErrors } = cache.stats()
  // Names keep their order, so that the same ones become `other` in each scrape.
  const nameOf = boundedLabel(maxValues)
  return [
    ['cache_invalidations_total', invalidations],
    ['cache_store_errors_total', storeErrors],
    ...Object.entries(names).flatMap(([given, counts]): Sample[] => {
      const name = nameOf(given)
      return [
        ['cache_requests_total', counts.l1Hits, { name, result: 'hit', tier: 'l1' }],
        ['cache_requests_total', counts.hits - counts.l1Hits, { name, result: 'hit', tier: 'l2' }],
        ['cache_requests_total', counts.stale, { name, result: 'stale', tier: '' }],
        ['cache_requests_total', counts.misses, { name, result: 'miss', tier: '' }],
        ['cache_coalesced_total', counts.coalesced, { name }],
        ['cache_stored_total', counts.stored, { name }],
        ['cache_stored_bytes_total', counts.storedBytes, { name }],
        ['cache_l1_entries', counts.l1Entries, { name }],
        ['cache_l1_bytes', counts.l1Bytes, { name }],
        ['cache_l1_evicted_total', counts.l1Evicted, { name }]
      ]
    })
  ]
}

function writeBehindSamples (stats: Awaited<ReturnType<WriteBehindLike['writeBehindStats']>>): Sample[] {
  return Object.entries(stats).flatMap(([name, stat]): Sample[] => [
    ['cache_write_behind_backlog', stat.backlog, { name }],
    ['cache_write_behind_dead_letters', stat.deadLetters, { name }],
    ['cache_write_behind_oldest_seconds', stat.oldestMs / 1000, { name }],
    ...(['accepted', 'refused', 'written', 'failed', 'died'] as const)
      .map((result): Sample => ['cache_write_behind_writes_total', stat[result], { name, result }])
  ])
}

const DECISIONS = ['allowed', 'refused', 'banned'] as const

function limiterSource (limiter: RateLimiterLike, maxValues: number): MetricSource {
  const scopeOf = boundedLabel(maxValues)
  const counts = new Map<string, Record<typeof DECISIONS[number], number>>()
  let storeErrors = 0

  const stops = DECISIONS.map(result => limiter.on(result, ({ scope }) => {
    let ofScope = counts.get(scope)
    if (ofScope === undefined) {
      const label = scopeOf(scope)
      ofScope = counts.get(label) ?? { allowed: 0, refused: 0, banned: 0 }
      counts.set(label, ofScope)
    }
    ofScope[result]++
  }))
  stops.push(limiter.on('error', () => { storeErrors++ }))

  return {
    kind: 'rateLimit',
    read: () => [
      ['rate_limit_store_errors_total', storeErrors],
      ...[...counts].flatMap(([scope, ofScope]) =>
        DECISIONS.map((result): Sample => ['rate_limit_decisions_total', ofScope[result], { scope, result }]))
    ],
    stop () {
      for (const stop of stops) stop()
    }
  }
}

function sessionSamples (sessions: SessionsLike): Sample[] {
  const { created, destroyed, active } = sessions.stats()
  return [['session_created_total', created], ['session_destroyed_total', destroyed], ['session_active', active]]
}

function streamSource (events: EventsLike, maxValues: number): MetricSource {
  // Created once, as the order of the list may change.
  const streamOf = boundedLabel(maxValues)
  const groupOf = boundedLabel(maxValues)
  return {
    kind: 'events',
    read: async () => (await events.stats()).flatMap(({ stream, group, lag, pending, deadLetters }): Sample[] => {
      const labels = { stream: streamOf(stream), group: groupOf(group) }
      return [
        ['events_stream_lag', lag, labels], ['events_stream_pending', pending, labels],
        ['events_stream_dead_letters', deadLetters, labels]
      ]
    })
  }
}

const HEALTH: Readonly<Record<string, number>> = { pass: 1, warn: 0.5, fail: 0 }

function healthSamples (results: Awaited<ReturnType<HealthLike['results']>>): Sample[] {
  return Object.entries(results).map(([check, [result]]): Sample =>
    ['health_check_status', HEALTH[result?.status ?? ''] ?? 0, { check }])
}
