import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { reasonOf, withoutCommand } from '../../shared/plugin/errors.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { RefusedError, StoreUnavailableError, SubscriptionsOffError } from '../errors.js'
import { parsePattern, type Pattern } from './patterns.js'
import type { Transport, TransportListener } from './transport.js'

/** The time in which messages may have been missed: milliseconds since the epoch. */
export interface Gap {
  from: number
  to: number
}

export interface SubscribeOptions {
  /** Called when messages are received again after some may have been missed: reload the data that they announce. */
  onGap?: ((gap: Gap) => void | Promise<void>) | undefined
  /**
   * Whether to wait until the server has confirmed the subscription. With `false`, `onGap` reports when it is
   * confirmed.
   *
   * @default true
   */
  confirm?: boolean | undefined
}

/** @param channel - the channel that the message was published to */
type UntypedHandler = (data: unknown, channel: string) => unknown

interface Subscriber {
  handler: UntypedHandler
  onGap: SubscribeOptions['onGap']
  /** Settles when the server has confirmed or refused the subscription; undefined if no caller waits for that. */
  confirmation: { resolve: () => void, reject: (error: Error) => void } | undefined
}

/** The subscribers of one pattern. */
interface SubscriberGroup {
  readonly pattern: Pattern
  readonly subscribers: Set<Subscriber>
  isLive: boolean
  lostAt: number
  isRefused: boolean
}

interface SubscriptionsOptions {
  canSubscribe: boolean
  connect: (listener: TransportListener) => Transport
  subscribeTimeout: Milliseconds
  log: FastifyBaseLogger
  clock: Clock
}

const MAX_WARNED_CHANNELS = 1000

/** The subscribers of this process. Each pattern is subscribed to once, however many subscribers it has. */
export class Subscriptions implements TransportListener {
  readonly #transport: Transport
  readonly #canSubscribe: boolean
  readonly #subscribeTimeout: Milliseconds
  readonly #log: FastifyBaseLogger
  readonly #clock: Clock
  readonly #groups = new Map<string, SubscriberGroup>()
  readonly #runningHandlers = new Set<Promise<void>>()
  readonly #warnedChannels = new Set<string>()
  #isClosed = false

  constructor ({ connect, canSubscribe, subscribeTimeout, log, clock }: SubscriptionsOptions) {
    this.#canSubscribe = canSubscribe
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
      throw new StoreUnavailableError('could not publish', { cause: withoutCommand(error) })
    }
  }

  /** @returns a function that unsubscribes at once, and resolves when the server has confirmed it */
  async subscribe (
    text: string, handler: UntypedHandler, { onGap, confirm = true }: SubscribeOptions = {}
  ): Promise<() => Promise<void>> {
    const pattern = parsePattern(text)
    if (!this.#canSubscribe) throw new SubscriptionsOffError(pattern.text)
    if (this.#isClosed) throw closedError()
    const group = this.#groups.get(pattern.text) ?? this.#open(pattern)
    const subscriber: Subscriber = { handler, onGap, confirmation: undefined }
    const end = async () => await this.#end(group, subscriber)
    group.subscribers.add(subscriber)
    if (group.isLive || !confirm) return end
    const confirmed = new Promise<void>((resolve, reject) => { subscriber.confirmation = { resolve, reject } })
    try {
      await withDeadline(confirmed, this.#subscribeTimeout,
        () => new StoreUnavailableError('could not subscribe', {
          cause: new Error(`not confirmed within ${this.#subscribeTimeout} ms`)
        }), this.#clock)
    } catch (error) {
      // Not awaited: a server that does not respond would not confirm this either.
      end().catch(() => {})
      throw error
    }
    return end
  }

  message (pattern: string, name: string, text: string): void {
    const group = this.#groups.get(pattern)
    if (group === undefined) return
    let data: unknown
    try {
      data = JSON.parse(text)
    } catch {
      return this.#warnOnce(name)
    }
    for (const subscriber of [...group.subscribers]) {
      // An earlier handler may have unsubscribed this one.
      if (group.subscribers.has(subscriber)) this.#run(name, 'a handler failed', () => subscriber.handler(data, name))
    }
  }

  live (pattern: string): void {
    const group = this.#groups.get(pattern)
    if (group === undefined || group.isLive) return
    group.isLive = true
    group.isRefused = false
    const gap = { from: group.lostAt, to: this.#clock.now() }
    for (const subscriber of [...group.subscribers]) {
      const { confirmation, onGap } = subscriber
      subscriber.confirmation = undefined
      if (confirmation) confirmation.resolve()
      else if (onGap) this.#run(pattern, 'onGap failed', () => onGap(gap))
    }
  }

  lost (pattern: string): void {
    const group = this.#groups.get(pattern)
    if (!group?.isLive) return
    group.isLive = false
    group.lostAt = this.#clock.now()
  }

  refused (pattern: string, reason: string): void {
    const group = this.#groups.get(pattern)
    if (group === undefined) return
    if (!group.isRefused) {
      this.#log.warn({ plugin: 'events', pattern, reason }, 'events: cannot subscribe, retrying until it succeeds')
    }
    group.isRefused = true
    for (const { confirmation } of group.subscribers) confirmation?.reject(new RefusedError(pattern, reason))
  }

  /** Ends all subscriptions, and confirmation up to `timeout` for handlers that still run. */
  async close (timeout: Milliseconds): Promise<void> {
    this.#isClosed = true
    for (const { subscribers } of this.#groups.values()) {
      for (const { confirmation } of subscribers) {
        confirmation?.reject(closedError())
      }
    }
    this.#groups.clear()
    this.#transport.close()
    if (this.#runningHandlers.size === 0) return
    await withDeadline(
      Promise.all(this.#runningHandlers), timeout, () => new Error('handlers still run'), this.#clock
    ).catch(() => {
      this.#log.warn(
        { plugin: 'events', handlers: this.#runningHandlers.size }, 'events: closed while handlers still ran'
      )
    })
  }

  #open (pattern: Pattern): SubscriberGroup {
    const group: SubscriberGroup = {
      pattern, subscribers: new Set(), isLive: false, lostAt: this.#clock.now(), isRefused: false
    }
    this.#groups.set(pattern.text, group)
    this.#transport.subscribe(pattern)
    return group
  }

  async #end (group: SubscriberGroup, subscriber: Subscriber): Promise<void> {
    const isLast = group.subscribers.delete(subscriber) && group.subscribers.size === 0
    if (!isLast || this.#groups.get(group.pattern.text) !== group) return
    this.#groups.delete(group.pattern.text)
    await this.#transport.unsubscribe(group.pattern)
  }

  #run (channel: string, failure: string, call: () => unknown): void {
    const fail = (error: unknown) =>
      this.#log.error({ plugin: 'events', channel, reason: reasonOf(error) }, `events: ${failure}`)
    try {
      const result = call()
      if (!isThenable(result)) return
      const running = Promise.resolve(result).then(() => {}, fail).finally(() => this.#runningHandlers.delete(running))
      this.#runningHandlers.add(running)
    } catch (error) {
      fail(error)
    }
  }

  #warnOnce (channel: string): void {
    if (this.#warnedChannels.has(channel) || this.#warnedChannels.size >= MAX_WARNED_CHANNELS) return
    this.#warnedChannels.add(channel)
    this.#log.warn(
      { plugin: 'events', channel },
      'events: a message that is not JSON was dropped; further ones of this channel are not logged'
    )
  }
}

function isThenable (value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}

function closedError (): Error {
  return new StoreUnavailableError('could not subscribe', { cause: new Error('the app is closed') })
}
