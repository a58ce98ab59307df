import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { parsePattern, type Pattern } from './patterns.js'
import { RefusedError, StoreUnavailableError } from '../errors.js'
import type { Transport, TransportListener } from './transport.js'

/** When messages may have been missed, in milliseconds since the epoch. */
export interface Gap {
  from: number
  to: number
}

export interface SubscribeOptions {
  /** Told when messages may have been missed and from now on are heard again: a good moment to read anew what they tell of. */
  onGap?: ((gap: Gap) => void | Promise<void>) | undefined
  /**
   * Whether to wait until the server has confirmed it. Without, it comes about as soon as it can, of which `onGap` tells.
   *
   * @default true
   */
  confirm?: boolean | undefined
}

/** @param channel - the name that it was published to */
export type UntypedHandler = (data: unknown, channel: string) => unknown

interface Subscriber {
  handler: UntypedHandler
  onGap: SubscribeOptions['onGap']
  /** Until the server has confirmed it: who waits for that. */
  waits: { resolve: () => void, reject: (error: Error) => void } | undefined
}

interface Entry {
  readonly pattern: Pattern
  readonly subscribers: Set<Subscriber>
  isLive: boolean
  lostAt: number
  isRefused: boolean
}

interface SubscriptionsOptions {
  connect: (listener: TransportListener) => Transport
  subscribeTimeout: number
  log: FastifyBaseLogger
  clock: Clock
}

const MAX_WARNED = 1000

/** The subscribers of this process: however many a pattern has, it is listened to once. */
export class Subscriptions implements TransportListener {
  readonly #transport: Transport
  readonly #subscribeTimeout: number
  readonly #log: FastifyBaseLogger
  readonly #clock: Clock
  readonly #entries = new Map<string, Entry>()
  readonly #running = new Set<Promise<void>>()
  readonly #warned = new Set<string>()
  #isClosed = false

  constructor ({ connect, subscribeTimeout, log, clock }: SubscriptionsOptions) {
    this.#subscribeTimeout = subscribeTimeout
    this.#log = log
    this.#clock = clock
    this.#transport = connect(this)
  }

  async publish (name: string, text: string): Promise<void> {
    try {
      if (this.#isClosed) throw new Error('the app is closed')
      await this.#transport.publish(name, text)
    } catch (error) {
      throw new StoreUnavailableError('could not publish', reasonOf(error))
    }
  }

  /** @returns a function that ends it: no call comes after that, and it resolves when the server knows */
  async subscribe (text: string, handler: UntypedHandler, { onGap, confirm = true }: SubscribeOptions = {}): Promise<() => Promise<void>> {
    const pattern = parsePattern(text)
    if (this.#isClosed) throw new StoreUnavailableError('could not subscribe', 'the app is closed')
    const entry = this.#entries.get(pattern.text) ?? this.#open(pattern)
    const subscriber: Subscriber = { handler, onGap, waits: undefined }
    const end = async () => await this.#end(entry, subscriber)
    entry.subscribers.add(subscriber)
    if (entry.isLive || !confirm) return end
    const confirmed = new Promise<void>((resolve, reject) => { subscriber.waits = { resolve, reject } })
    try {
      await withDeadline(confirmed, this.#subscribeTimeout,
        () => new StoreUnavailableError('could not subscribe', `not confirmed within ${this.#subscribeTimeout} ms`), this.#clock)
    } catch (error) {
      // Not awaited: who does not answer the one does not answer the other.
      end().catch(() => {})
      throw error
    }
    return end
  }

  message (pattern: string, name: string, text: string): void {
    const entry = this.#entries.get(pattern)
    if (entry === undefined) return
    let data: unknown
    try {
      data = JSON.parse(text)
    } catch {
      return this.#warnOnce(name)
    }
    for (const subscriber of [...entry.subscribers]) {
      // One before it may have ended it.
      if (entry.subscribers.has(subscriber)) this.#run(name, 'a handler failed', () => subscriber.handler(data, name))
    }
  }

  live (pattern: string): void {
    const entry = this.#entries.get(pattern)
    if (entry === undefined || entry.isLive) return
    entry.isLive = true
    entry.isRefused = false
    const gap = { from: entry.lostAt, to: this.#clock.now() }
    for (const subscriber of [...entry.subscribers]) {
      const { waits, onGap } = subscriber
      subscriber.waits = undefined
      if (waits) waits.resolve()
      else if (onGap) this.#run(pattern, 'onGap failed', () => onGap(gap))
    }
  }

  lost (pattern: string): void {
    const entry = this.#entries.get(pattern)
    if (!entry?.isLive) return
    entry.isLive = false
    entry.lostAt = this.#clock.now()
  }

  refused (pattern: string, reason: string): void {
    const entry = this.#entries.get(pattern)
    if (entry === undefined) return
    if (!entry.isRefused) this.#log.warn({ plugin: 'events', pattern, reason }, 'events: cannot subscribe, trying again until it can')
    entry.isRefused = true
    for (const { waits } of entry.subscribers) waits?.reject(new RefusedError(pattern, reason))
  }

  /** Ends all subscriptions, and waits for handlers that still run, for `timeout` milliseconds at most. */
  async close (timeout: number): Promise<void> {
    this.#isClosed = true
    for (const { subscribers } of this.#entries.values()) {
      for (const { waits } of subscribers) waits?.reject(new StoreUnavailableError('could not subscribe', 'the app is closed'))
    }
    this.#entries.clear()
    this.#transport.close()
    if (this.#running.size === 0) return
    await withDeadline(Promise.all(this.#running), timeout, () => new Error('too long'), this.#clock).catch(() => {
      this.#log.warn({ plugin: 'events', handlers: this.#running.size }, 'events: closed while handlers still ran')
    })
  }

  #open (pattern: Pattern): Entry {
    const entry: Entry = { pattern, subscribers: new Set(), isLive: false, lostAt: this.#clock.now(), isRefused: false }
    this.#entries.set(pattern.text, entry)
    this.#transport.listen(pattern)
    return entry
  }

  async #end (entry: Entry, subscriber: Subscriber): Promise<void> {
    const isLast = entry.subscribers.delete(subscriber) && entry.subscribers.size === 0
    if (!isLast || this.#entries.get(entry.pattern.text) !== entry) return
    this.#entries.delete(entry.pattern.text)
    await this.#transport.unlisten(entry.pattern)
  }

  #run (channel: string, failure: string, call: () => unknown): void {
    const fail = (error: unknown) => this.#log.error({ plugin: 'events', channel, reason: reasonOf(error) }, `events: ${failure}`)
    try {
      const result = call()
      if (!isThenable(result)) return
      const running = Promise.resolve(result).then(() => {}, fail).finally(() => this.#running.delete(running))
      this.#running.add(running)
    } catch (error) {
      fail(error)
    }
  }

  #warnOnce (channel: string): void {
    if (this.#warned.has(channel) || this.#warned.size >= MAX_WARNED) return
    this.#warned.add(channel)
    this.#log.warn({ plugin: 'events', channel }, 'events: a message that is not JSON was dropped; others of this channel are not logged')
  }
}

function isThenable (value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
