import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { circuitOf, systemClock, type Clock, type Timer } from '../plugins/redis/index.js'
import type { Behavior, Fallbacks } from './live-events.js'
import type { OwnRedis } from './own-redis.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** The Redis that the demo has started; absent on any other Redis. */
    ownRedis: OwnRedis
  }
  interface EventChannels {
    'live:probe': null
  }
}

type Outcome = Pick<Behavior, 'state' | 'text'>

const PROBE_MS = 250
/** An unchanged state is sent this often. */
const REPEAT_MS = 1000
const LIMIT = { name: 'live-probe', max: 1000, timeWindow: '1 minute' }

/**
 * Sends a request to each plugin four times a second while a page is open, and reports to the page how the plugin
 * responded.
 */
interface FallbacksOptions {
  ownRedis: OwnRedis
  clock?: Clock | undefined
}

export const fallbacks = fp<FallbacksOptions>(async function fallbacks (fastify, { ownRedis, clock = systemClock }) {
  const { live, redis } = fastify
  const probes = probesOf(fastify)
  const behaviors = new Map<string, Behavior>()
  const running = new Set<string>()
  let timer: Timer | undefined
  let sent = { text: '', at: -Infinity }

  async function run (plugin: string, probe: () => Promise<Outcome>): Promise<void> {
    if (running.has(plugin)) return
    running.add(plugin)
    const began = clock.monotonic()
    const outcome = await probe().catch((error: unknown): Outcome =>
      ({ state: 'fail', text: error instanceof Error ? error.message : String(error) }))
    behaviors.set(plugin, { plugin, ...outcome, ms: clock.monotonic() - began })
    running.delete(plugin)
  }

  function publish (): void {
    const { fault = null, since } = ownRedis.state
    const state: Fallbacks = {
      kind: 'fallbacks',
      fault,
      since,
      circuit: circuitOf(redis)?.state ?? 'closed',
      behaviors: [...probes.keys()].flatMap(plugin => behaviors.get(plugin) ?? [])
    }
    const text = JSON.stringify({ ...state, behaviors: state.behaviors.map(behavior => ({ ...behavior, ms: 0 })) })
    const at = clock.monotonic()
    if (text === sent.text && at - sent.at < REPEAT_MS) return
    sent = { text, at }
    live.publish(state)
  }

  function tick (): void {
    timer = undefined
    if (!live.isWatched) return
    for (const [plugin, probe] of probes) run(plugin, probe).catch(() => {})
    publish()
    timer = clock.setTimeout(tick, PROBE_MS).unref()
  }

  fastify.decorate('ownRedis', ownRedis)
  live.onSample(() => { if (timer === undefined) tick() })
  fastify.addHook('onClose', async () => clock.clearTimeout(timer))
}, {
  name: 'demo/fallbacks',
  dependencies: [
    'demo/live', 'fastify-redis-suite/lock', 'fastify-redis-suite/idempotency', 'fastify-redis-suite/session'
  ]
})

/** The request of each plugin, which resolves with what the plugin did. */
function probesOf (fastify: FastifyInstance): Map<string, () => Promise<Outcome>> {
  const { cache, events, locks, rateLimiter, redis } = fastify
  const stream = events.stream<null>('live-probe', { maxLength: 100, maxAge: '1 minute' })
  let tier: 'l1' | 'l2' | undefined
  cache.on('hit', hit => { if (hit.key === '/live/redis/page') tier = hit.tier })
  let hasMissed = false
  let cookies: Record<string, string> = {}

  return new Map<string, () => Promise<Outcome>>([
    ['cache', async () => {
      tier = undefined
      const { headers } = await fastify.inject('/live/redis/page')
      const found = headers['x-cache'] === 'HIT'
      // After a miss the next request is a hit, unless the response was not stored.
      const isDegraded = !found && (hasMissed || (circuitOf(redis)?.state ?? 'closed') !== 'closed')
      hasMissed = !found
      if (found) {
        return {
          state: 'pass', text: tier === 'l1' ? 'a hit, from the memory of this process (L1)' : 'a hit, from Redis'
        }
      }
      return isDegraded
        ? { state: 'warn', text: 'bypassed: the handler runs for each request' }
        : { state: 'pass', text: 'a miss: the handler runs, and the response is stored' }
    }],
    ['rate-limit', async () => {
      const { takenFrom } = await rateLimiter.consume('probe', LIMIT)
      if (takenFrom === 'store') return { state: 'pass', text: 'Redis decides, for all instances together' }
      return {
        state: 'warn',
        text: takenFrom === 'process' ? 'this instance decides by its own memory' : 'requests pass uncounted'
      }
    }],
    ['session', async () => {
      const response = await fastify.inject({ method: 'POST', url: '/live/redis/visit', cookies })
      const hadCookie = Object.keys(cookies).length > 0
      for (const { name, value } of response.cookies) cookies = { ...cookies, [name]: value }
      if (response.statusCode !== 200) {
        return {
          state: 'fail',
          text: hadCookie
            ? `refused with ${response.statusCode}; the browser keeps its cookie`
            : `refused with ${response.statusCode}`
        }
      }
      const { visits } = response.json<{ visits: number }>()
      if (visits > 1) return { state: 'pass', text: 'read, changed and saved' }
      return hadCookie
        ? { state: 'warn', text: 'a new session: Redis has lost the old one' }
        : { state: 'pass', text: 'a new session' }
    }],
    ['lock', async () => await orRefused(async () => {
      await locks.using('live-probe', { wait: '1s', ttl: '2s' }, async () => {})
      return { state: 'pass', text: 'held, and released' }
    }, 'nothing runs without its lock')],
    ['idempotency', async () => {
      const { statusCode } = await fastify.inject({
        method: 'POST', url: '/live/redis/once', headers: { 'idempotency-key': randomUUID() }
      })
      if (statusCode === 200) return { state: 'pass', text: 'a request with a key runs once' }
      return { state: 'fail', text: `refused with ${statusCode}: it might run twice` }
    }],
    ['events', async () => await orRefused(async () => {
      await events.publish('live:probe', null)
      return { state: 'pass', text: 'published to all instances' }
    }, 'other instances miss its events')],
    ['stream', async () => await orRefused(async () => {
      await stream.append(null)
      return { state: 'pass', text: 'an event is appended' }
    }, 'no event is accepted that is not stored')],
    ['health', async () => {
      const response = await fastify.inject('/health')
      const { status } = response.json<{ status: Behavior['state'] }>()
      if (status === 'pass') return { state: 'pass', text: 'ready' }
      return {
        state: status,
        text: response.statusCode === 200 ? 'a warning, and still ready' : `not ready: ${response.statusCode}`
      }
    }]
  ])
}

/** Returns the work's outcome, or else that it was refused, and what follows from that. */
async function orRefused (work: () => Promise<Outcome>, consequence: string): Promise<Outcome> {
  try {
    return await work()
  } catch (error) {
    const status = error instanceof Error && 'statusCode' in error ? ` with ${String(error.statusCode)}` : ''
    // A proxy may deliver a command to Redis after its caller has given up.
    if (status.endsWith('423')) {
      return { state: 'warn', text: 'waits until the ttl of a lock whose caller has given up' }
    }
    return { state: 'fail', text: `refused${status}: ${consequence}` }
  }
}
