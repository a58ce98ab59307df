import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { circuitOf, clusterOf, type Clock } from '../plugins/redis/index.js'
import { serverName } from '../tools/servers/server-name.js'
import type { Check, Sample, Status, StoreState } from './live-events.js'

interface Counts {
  requests: number
  allowed: number
  refused: number
  hit: { count: number, ms: number }
  miss: { count: number, ms: number }
}

const emptyCounts = (): Counts =>
  ({ requests: 0, allowed: 0, refused: 0, hit: { count: 0, ms: 0 }, miss: { count: 0, ms: 0 } })
const CACHE_COUNTERS = ['hits', 'l1Hits', 'misses', 'stale'] as const

// Requests of the page itself are not counted.
const UNCOUNTED = /^\/(?:live|live\/redis\/.*|health\b.*)$/

/** Measures what an instance does between two samples. */
export class Sampler {
  readonly #fastify: FastifyInstance
  readonly #store: StoreReader
  #counts = emptyCounts()
  #previous: Record<typeof CACHE_COUNTERS[number], number>

  constructor (fastify: FastifyInstance, clock: Clock) {
    this.#fastify = fastify
    this.#store = new StoreReader(fastify, clock)
    this.#previous = fastify.cache.stats()
  }

  /** Counts a response. */
  countResponse ({ routeOptions }: FastifyRequest, reply: FastifyReply): void {
    if (UNCOUNTED.test(routeOptions.url ?? '')) return
    this.#counts.requests++
    const outcome = reply.getHeader('x-cache')
    const time = outcome === 'HIT' ? this.#counts.hit : outcome === 'MISS' ? this.#counts.miss : undefined
    if (time === undefined) return
    time.count++
    time.ms += reply.elapsedTime
  }

  /** Counts a decision of the rate limiter. */
  countDecision (isAllowed: boolean): void {
    this.#counts[isAllowed ? 'allowed' : 'refused']++
  }

  /** Returns the figures since the previous sample. Never rejects, and takes no longer than the health checks. */
  async take (): Promise<Sample> {
    const stats = this.#fastify.cache.stats()
    const { requests, allowed, refused, hit, miss } = this.#counts
    const [hits, l1Hits, misses, stale] = CACHE_COUNTERS.map(name => stats[name] - this.#previous[name])
    this.#counts = emptyCounts()
    this.#previous = stats
    const { parcels: stream, views: counts } = this.#fastify
    const [store, health, parcels, views] = await Promise.all(
      [this.#store.read(), this.#health(), stream.stats(), counts.stats()]
    )
    return {
      kind: 'sample',
      requests,
      cache: {
        hits: hits ?? 0, l1Hits: l1Hits ?? 0, misses: misses ?? 0, stale: stale ?? 0, hitTime: hit, missTime: miss
      },
      rateLimit: { allowed, refused },
      store: { ...store, l1Entries: stats.l1Entries },
      health,
      parcels: parcels ?? null,
      views
    }
  }

  /** Reads the details that only requests from this machine receive. */
  async #health (): Promise<Sample['health']> {
    try {
      const response = await this.#fastify.inject('/health')
      const body = response.json<{ status: Status, checks?: Record<string, HealthCheck[]> }>()
      const checks = Object.entries(body.checks ?? {}).flatMap(([name, found]) => found.map(one => checkOf(name, one)))
      return { status: body.status, checks }
    } catch (error) {
      return {
        status: 'fail',
        checks: [{ name: 'health', status: 'fail', detail: error instanceof Error ? error.message : String(error) }]
      }
    }
  }
}

interface HealthCheck {
  status: Status
  observedValue?: unknown
  observedUnit?: string
  output?: string
}

function checkOf (name: string, { status, observedValue, observedUnit = '', output }: HealthCheck): Check {
  const value = observedValue === null || observedValue === undefined ? '' : String(observedValue)
  return { name, status, detail: output ?? `${value} ${value === '' ? '' : observedUnit}`.trim() }
}

const UNKNOWN = { entries: null, memory: null, maxMemory: null, latency: null, commands: null }

/** Reads the figures of the cache's store; none while it is unavailable. */
class StoreReader {
  readonly #fastify: FastifyInstance
  readonly #clock: Clock
  #server: string | undefined
  #previousCommands: { total: number, at: number } | undefined

  constructor (fastify: FastifyInstance, clock: Clock) {
    this.#fastify = fastify
    this.#clock = clock
  }

  async read (): Promise<Omit<StoreState, 'l1Entries'>> {
    if (!this.#fastify.hasDecorator('redis')) {
      const stats = await this.#fastify.cache.storeStats()
      return {
        ...UNKNOWN,
        label: 'in this process',
        isRedis: false,
        entries: stats.entries,
        memory: stats.usedMemory,
        maxMemory: stats.maxMemory,
        circuit: null
      }
    }
    const { redis } = this.#fastify
    const circuit = circuitOf(redis)?.state ?? 'closed'
    const label = () => `${this.#server ?? 'Redis'} ${this.#address()}`
    // The circuit breaker probes Redis itself; commands of ours would queue up.
    if (circuit === 'open' || redis.status !== 'ready') return { ...UNKNOWN, label: label(), isRedis: true, circuit }
    try {
      this.#server ??= serverName(await redis.info('server'))
      const began = this.#clock.monotonic()
      await redis.ping()
      const latency = this.#clock.monotonic() - began
      const [stats, commands] = await Promise.all([this.#fastify.cache.storeStats(), this.#commands()])
      return {
        label: label(),
        isRedis: true,
        entries: stats.entries,
        memory: stats.usedMemory,
        maxMemory: stats.maxMemory,
        latency,
        commands,
        circuit
      }
    } catch {
      return { ...UNKNOWN, label: label(), isRedis: true, circuit: circuitOf(redis)?.state ?? circuit }
    }
  }

  /** Returns where Redis is, without credentials. */
  #address (): string {
    const { redis } = this.#fastify
    const cluster = clusterOf(redis)
    if (cluster !== undefined) return `Cluster of ${cluster.nodes('master').length} masters`
    const { host, port, path } = redis.options
    return path ? `at ${path}` : `at ${host}:${port}`
  }

  async #commands (): Promise<number | null> {
    const { redis } = this.#fastify
    const nodes = clusterOf(redis)?.nodes('master') ?? [redis]
    const infos = await Promise.all(nodes.map(async node => await node.info('stats')))
    const total = infos.reduce((sum, info) => sum + Number(/^total_commands_processed:(\d+)/m.exec(info)?.[1] ?? 0), 0)
    const previous = this.#previousCommands
    const at = this.#clock.monotonic()
    this.#previousCommands = { total, at }
    // A server that was restarted counts from 0.
    if (previous === undefined || total < previous.total) return null
    return (total - previous.total) / (at - previous.at) * 1000
  }
}
