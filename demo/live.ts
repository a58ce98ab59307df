import { randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { systemClock, type Clock, type Timer } from '../plugins/shared/plugin/clock.js'
import { LatestQueue } from './latest-queue.js'
import type { LiveEvent, Sample, Told } from './live-events.js'
import { Sampler } from './sampler.js'

declare module 'fastify' {
  interface FastifyInstance {
    live: Live
  }
  interface EventChannels {
    'live:told': LiveEvent[]
    'live:watched': { instance: string }
  }
}

export interface Live {
  /** Names this process on the page. */
  readonly instance: string
  /** Tells all pages, of all instances. Nothing is done while nobody watches. */
  tell (told: Told): void
  /** What happens from now on, at all instances. */
  watch (hello: Told, signal: AbortSignal | undefined): AsyncIterable<Watched>
}

interface Watched {
  id: string
  key: undefined
  data: LiveEvent
  appendedAt: number
  gap?: true
}

const SAMPLE_MS = 1000
const FLUSH_MS = 100
/** For how long an instance goes on when it has heard of a watcher at another one; told each second, so some may be lost. */
const WATCHED_MS = 4000
/** As many are told one by one between two flushes, of caches and of decisions; of the rest it is told how many. */
const MAX_TOLD = { cache: 10, decision: 300 }
const MAX_WAITING = 2000
/** Characters of a key; who asks says how long its own is. */
const MAX_KEY = 200
/** The group of routes whose limit the page shows. */
const SHOWN = 'limited'

/**
 * Tells the live page, at every instance, what happens at each of them. While no page is open anywhere it only listens for
 * one: no timer runs and no event is heard.
 */
export const live = fp<{ clock?: Clock | undefined }>(async function live (fastify, { clock = systemClock }) {
  const { events } = fastify
  const instance = randomBytes(2).toString('hex')
  const queues = new Set<LatestQueue<LiveEvent>>()
  const teller = new Teller(instance, clock, told => {
    for (const event of told) for (const queue of queues) queue.push(event)
    // The pages of this instance have it already; while Redis is away the others do without.
    events.publish('live:told', told).catch(() => {})
  })
  const watching = new Watching(fastify, clock, teller, () => queues.size > 0)
  fastify.addHook('onResponse', (request, reply, done) => {
    watching.sampler?.answered(request, reply)
    done()
  })
  fastify.addHook('onClose', async () => watching.stop())

  fastify.decorate('live', {
    instance,
    tell: told => { if (watching.sampler !== undefined) teller.tell(told) },
    async * watch (hello, signal) {
      const queue = new LatestQueue<LiveEvent>(MAX_WAITING, signal)
      queue.push({ ...hello, instance, at: clock.now() })
      queues.add(queue)
      watching.heardOf()
      let id = 0
      try {
        for await (const { item, gap } of queue) yield { id: String(++id), key: undefined, data: item, appendedAt: item.at, ...gap && { gap } }
      } finally {
        queues.delete(queue)
      }
    }
  })
  await events.subscribe('live:told', told => {
    if (queues.size === 0 || told[0]?.instance === instance) return
    for (const event of told) for (const queue of queues) queue.push(event)
  }, { confirm: false })
  await events.subscribe('live:watched', watcher => { if (watcher.instance !== instance) watching.heardOf() }, { confirm: false })
}, {
  name: 'demo/live',
  dependencies: ['fastify-redis-suite/cache', 'fastify-redis-suite/rate-limit', 'fastify-redis-suite/health', 'fastify-redis-suite/events']
})

/** Collects what is told, as a burst would otherwise be a message each. */
class Teller {
  readonly #instance: string
  readonly #clock: Clock
  readonly #send: (told: LiveEvent[]) => void
  #waiting: LiveEvent[] = []
  #count = { cache: 0, decision: 0 }
  #more = 0
  #timer: Timer | undefined

  constructor (instance: string, clock: Clock, send: (told: LiveEvent[]) => void) {
    this.#instance = instance
    this.#clock = clock
    this.#send = send
  }

  tell (told: Told): void {
    const { kind } = told
    if ((kind === 'cache' || kind === 'decision') && ++this.#count[kind] > MAX_TOLD[kind]) this.#more++
    else this.#waiting.push({ ...told, instance: this.#instance, at: this.#clock.now() })
    this.#timer ??= this.#clock.setTimeout(() => this.#flush(), FLUSH_MS).unref()
  }

  /** Drops what waits, as no page is open. The next event starts the timer again. */
  stop (): void {
    this.#clock.clearTimeout(this.#timer)
    this.#empty()
  }

  #flush (): void {
    if (this.#more > 0) this.#waiting.push({ kind: 'more', count: this.#more, instance: this.#instance, at: this.#clock.now() })
    this.#send(this.#empty())
  }

  #empty (): LiveEvent[] {
    const told = this.#waiting
    this.#waiting = []
    this.#count = { cache: 0, decision: 0 }
    this.#more = 0
    this.#timer = undefined
    return told
  }
}

/** Takes a sample each second while somebody watches. */
class Watching {
  readonly #fastify: FastifyInstance
  readonly #clock: Clock
  readonly #teller: Teller
  readonly #isWatchedHere: () => boolean
  #until = 0
  #timer: Timer | undefined
  #stops: Array<() => void> = []
  #before: Sample | undefined
  /** Undefined while nobody watches. */
  sampler: Sampler | undefined

  constructor (fastify: FastifyInstance, clock: Clock, teller: Teller, isWatchedHere: () => boolean) {
    this.#fastify = fastify
    this.#clock = clock
    this.#teller = teller
    this.#isWatchedHere = isWatchedHere
  }

  /** There is a page, here or elsewhere. */
  heardOf (): void {
    this.#until = this.#clock.monotonic() + WATCHED_MS
    if (this.sampler !== undefined) return
    this.sampler = new Sampler(this.#fastify, this.#clock)
    this.#listen(this.sampler)
    this.#next(this.sampler, 0)
  }

  stop (): void {
    this.#clock.clearTimeout(this.#timer)
    this.#teller.stop()
    for (const stop of this.#stops.splice(0)) stop()
    this.sampler = undefined
    this.#before = undefined
  }

  #listen (sampler: Sampler): void {
    const { cache, rateLimiter } = this.#fastify
    const tell = (what: 'hit' | 'miss' | 'stale') => cache.on(what, ({ key }) => this.#teller.tell({ kind: 'cache', what, of: key.slice(0, MAX_KEY) }))
    this.#stops = [tell('hit'), tell('miss'), tell('stale'), cache.on('invalidate', ({ origin, tags, key, pattern }) => {
      // Another instance tells of its own.
      if (origin === 'local') this.#teller.tell({ kind: 'cache', what: 'invalidate', of: (tags?.join(', ') ?? key ?? pattern ?? '').slice(0, MAX_KEY) })
    })]
    for (const name of ['allowed', 'refused', 'banned'] as const) {
      this.#stops.push(rateLimiter.on(name, ({ request, key, decision }) => {
        sampler.decided(decision.allowed)
        const { rateLimit } = request?.routeOptions.config ?? {}
        if (typeof rateLimit !== 'object' || rateLimit?.groupId !== SHOWN) return
        this.#teller.tell({ kind: 'decision', who: key, allowed: decision.allowed, remaining: decision.remaining })
      }))
    }
  }

  #next (sampler: Sampler, ms: number): void {
    this.#timer = this.#clock.setTimeout(() => {
      const began = this.#clock.monotonic()
      if (this.#isWatchedHere()) {
        this.#until = began + WATCHED_MS
        this.#fastify.events.publish('live:watched', { instance: this.#fastify.live.instance }).catch(() => {})
      } else if (began > this.#until) {
        return this.stop()
      }
      sampler.take().then(sample => {
        // It may have been stopped meanwhile.
        if (this.sampler !== sampler) return
        this.#tell(sample)
        this.#next(sampler, Math.max(0, SAMPLE_MS - (this.#clock.monotonic() - began)))
      }, error => {
        this.#fastify.log.error({ reason: error instanceof Error ? error.message : String(error) }, 'live: no sample, so it ends until a page is opened')
        this.stop()
      })
    }, ms).unref()
  }

  #tell (sample: Sample): void {
    const before = this.#before
    this.#before = sample
    this.#teller.tell(sample)
    const { store: { circuit }, health: { status } } = sample
    if (before !== undefined && (before.health.status !== status || before.store.circuit !== circuit)) this.#teller.tell({ kind: 'health', status, circuit })
  }
}
