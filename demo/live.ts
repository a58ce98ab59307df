import { randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { systemClock, type Clock, type Timer } from '../plugins/redis/index.js'
import { LatestQueue } from './latest-queue.js'
import type { LiveEvent, Sample, LiveData } from './live-events.js'
import { Sampler } from './sampler.js'

declare module 'fastify' {
  interface FastifyInstance {
    live: Live
  }
  interface EventChannels {
    'live:events': LiveEvent[]
    'live:watched': { instance: string }
  }
}

export interface Live {
  /** Names this process on the page. */
  readonly instance: string
  /** Sends an event to the pages of all instances. Does nothing while no page is open. */
  publish (data: LiveData): void
  /** Calls the listener when a page is opened somewhere, and each second while one is open. */
  onSample (listener: () => void): void
  /** Whether a page is open, here or at another instance. */
  readonly isWatched: boolean
  /** Yields `hello`, then the events of all instances from now on. */
  watch (hello: LiveData, signal: AbortSignal | undefined): AsyncIterable<StreamedEvent>
}

interface StreamedEvent {
  id: string
  key: undefined
  data: LiveEvent
  appendedAt: number
  gap?: true
}

const SAMPLE_MS = 1000
const FLUSH_MS = 100
/**
 * How long an instance keeps sampling after another one reported an open page. Reports come every second, and some may
 * be lost.
 */
const WATCHED_MS = 4000
/** The maximum number of events per flush and kind; further ones are only counted. */
const MAX_EVENTS = { cache: 10, decision: 300, parcel: 100 }
const MAX_QUEUED = 2000
/** In characters; clients choose the length of keys. */
const MAX_KEY_LENGTH = 200
/** The rate limit group that the page shows. */
const SHOWN_GROUP = 'limited'

/**
 * Sends the events of every instance to the live pages of every instance. While no page is open, no timer and no
 * listener runs.
 */
export const live = fp<{ clock?: Clock | undefined }>(async function live (fastify, { clock = systemClock }) {
  const { events } = fastify
  const instance = randomBytes(2).toString('hex')
  const queues = new Set<LatestQueue<LiveEvent>>()
  const batcher = new EventBatcher(instance, clock, batch => {
    for (const event of batch) for (const queue of queues) queue.push(event)
    // While Redis is unavailable, only the pages of this instance receive the events.
    events.publish('live:events', batch).catch(() => {})
  })
  const monitor = new LiveMonitor(fastify, clock, batcher, () => queues.size > 0)
  fastify.addHook('onResponse', (request, reply, done) => {
    monitor.sampler?.countResponse(request, reply)
    done()
  })
  fastify.addHook('onClose', async () => monitor.stop())

  fastify.decorate('live', {
    instance,
    get isWatched () { return monitor.sampler !== undefined },
    onSample: listener => { monitor.listeners.push(listener) },
    publish: data => { if (monitor.sampler !== undefined) batcher.add(data) },
    async * watch (hello, signal) {
      const queue = new LatestQueue<LiveEvent>(MAX_QUEUED, signal)
      queue.push({ ...hello, instance, at: clock.now() })
      queues.add(queue)
      monitor.onWatcher()
      let id = 0
      try {
        for await (const { item, gap } of queue) {
          yield { id: String(++id), key: undefined, data: item, appendedAt: item.at, ...gap && { gap } }
        }
      } finally {
        queues.delete(queue)
      }
    }
  })
  await events.subscribe('live:events', batch => {
    if (queues.size === 0 || batch[0]?.instance === instance) return
    for (const event of batch) for (const queue of queues) queue.push(event)
  }, { confirm: false })
  await events.subscribe(
    'live:watched', watcher => { if (watcher.instance !== instance) monitor.onWatcher() }, { confirm: false }
  )
}, {
  name: 'demo/live',
  dependencies: [
    'fastify-redis-suite/cache', 'fastify-redis-suite/rate-limit', 'fastify-redis-suite/health',
    'fastify-redis-suite/events'
  ]
})

/** Collects events, so that a burst is one message. */
class EventBatcher {
  readonly #instance: string
  readonly #clock: Clock
  readonly #send: (batch: LiveEvent[]) => void
  #pending: LiveEvent[] = []
  #count = { cache: 0, decision: 0, parcel: 0 }
  #omitted = 0
  #timer: Timer | undefined

  constructor (instance: string, clock: Clock, send: (batch: LiveEvent[]) => void) {
    this.#instance = instance
    this.#clock = clock
    this.#send = send
  }

  add (data: LiveData): void {
    const { kind } = data
    if ((kind === 'cache' || kind === 'decision' || kind === 'parcel') &&
      ++this.#count[kind] > MAX_EVENTS[kind]) this.#omitted++
    else this.#pending.push({ ...data, instance: this.#instance, at: this.#clock.now() })
    this.#timer ??= this.#clock.setTimeout(() => this.#flush(), FLUSH_MS).unref()
  }

  /** Drops the pending events when no page is open. The next event starts the timer again. */
  stop (): void {
    this.#clock.clearTimeout(this.#timer)
    this.#takeAll()
  }

  #flush (): void {
    if (this.#omitted > 0) {
      this.#pending.push({ kind: 'more', count: this.#omitted, instance: this.#instance, at: this.#clock.now() })
    }
    this.#send(this.#takeAll())
  }

  #takeAll (): LiveEvent[] {
    const batch = this.#pending
    this.#pending = []
    this.#count = { cache: 0, decision: 0, parcel: 0 }
    this.#omitted = 0
    this.#timer = undefined
    return batch
  }
}

/** Takes a sample every second while a page is open. */
class LiveMonitor {
  readonly #fastify: FastifyInstance
  readonly #clock: Clock
  readonly #batcher: EventBatcher
  readonly #isWatchedHere: () => boolean
  #until = 0
  #timer: Timer | undefined
  #stops: Array<() => void> = []
  #previous: Sample | undefined
  /** Undefined while no page is open. */
  sampler: Sampler | undefined
  readonly listeners: Array<() => void> = []

  constructor (fastify: FastifyInstance, clock: Clock, batcher: EventBatcher, isWatchedHere: () => boolean) {
    this.#fastify = fastify
    this.#clock = clock
    this.#batcher = batcher
    this.#isWatchedHere = isWatchedHere
  }

  /** Starts sampling: a page is open, here or at another instance. */
  onWatcher (): void {
    this.#until = this.#clock.monotonic() + WATCHED_MS
    if (this.sampler !== undefined) return
    this.sampler = new Sampler(this.#fastify, this.#clock)
    this.#listen(this.sampler)
    this.#schedule(this.sampler, 0)
  }

  stop (): void {
    this.#clock.clearTimeout(this.#timer)
    this.#batcher.stop()
    for (const stop of this.#stops.splice(0)) stop()
    this.sampler = undefined
    this.#previous = undefined
  }

  #listen (sampler: Sampler): void {
    const { cache, rateLimiter } = this.#fastify
    const isShared = this.#fastify.hasDecorator('redis')
    const forward = (what: 'hit' | 'miss' | 'stale') =>
      cache.on(what, ({ key }) => this.#batcher.add({ kind: 'cache', what, of: key.slice(0, MAX_KEY_LENGTH) }))
    this.#stops = [forward('hit'), forward('miss'), forward('stale'), cache.on('invalidate', ({
      origin, tags, key, pattern
    }) => {
      // The instance that invalidated it sends the event.
      if (origin === 'local') {
        this.#batcher.add({
          kind: 'cache', what: 'invalidate', of: (tags?.join(', ') ?? key ?? pattern ?? '').slice(0, MAX_KEY_LENGTH)
        })
      }
    })]
    for (const name of ['allowed', 'refused', 'banned'] as const) {
      this.#stops.push(rateLimiter.on(name, ({ request, key, decision }) => {
        sampler.countDecision(decision.allowed)
        const { rateLimit } = request?.routeOptions.config ?? {}
        if (typeof rateLimit !== 'object' || rateLimit?.groupId !== SHOWN_GROUP) return
        this.#batcher.add({
          kind: 'decision',
          address: key,
          allowed: decision.allowed,
          remaining: decision.remaining,
          isLocal: isShared && decision.takenFrom !== 'store'
        })
      }))
    }
  }

  #schedule (sampler: Sampler, ms: number): void {
    this.#timer = this.#clock.setTimeout(() => {
      const began = this.#clock.monotonic()
      if (this.#isWatchedHere()) {
        this.#until = began + WATCHED_MS
        this.#fastify.events.publish('live:watched', { instance: this.#fastify.live.instance }).catch(() => {})
      } else if (began > this.#until) {
        return this.stop()
      }
      for (const listener of this.listeners) listener()
      sampler.take().then(sample => {
        // Sampling may have stopped meanwhile.
        if (this.sampler !== sampler) return
        this.#publish(sample)
        this.#schedule(sampler, Math.max(0, SAMPLE_MS - (this.#clock.monotonic() - began)))
      }, error => {
        this.#fastify.log.error(
          { reason: error instanceof Error ? error.message : String(error) },
          'live: a sample failed, so sampling stops until a page is opened'
        )
        this.stop()
      })
    }, ms).unref()
  }

  #publish (sample: Sample): void {
    const previous = this.#previous
    this.#previous = sample
    this.#batcher.add(sample)
    const { store: { circuit }, health: { status } } = sample
    if (previous !== undefined && (previous.health.status !== status || previous.store.circuit !== circuit)) {
      this.#batcher.add({ kind: 'health', status, circuit })
    }
  }
}
