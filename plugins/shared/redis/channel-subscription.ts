import type { FastifyBaseLogger } from 'fastify'
import { systemClock, type Clock, type Timer } from '../plugin/clock.js'
import { isOutage, reasonOf, throwOutage, type PluginName } from '../plugin/errors.js'
import type { RedisPort, Subscriber } from './port.js'

/** Receives the messages that other instances publish. */
export interface ChannelSubscription {
  /** Whether every message is received now. */
  readonly live: boolean
  /** Resolves when all messages are received that were published before the call. */
  caughtUp (): Promise<void>
  close (): void
}

interface ChannelSubscriptionOptions {
  client: RedisPort
  /** For the log. */
  plugin: PluginName
  channel: string
  log: FastifyBaseLogger
  /** The log's message if the client may not subscribe. */
  without: string
  onMessage: (message: string) => void
  /** Called when messages may be lost from now on, and when they no longer are. */
  onGap: () => void
  clock?: Clock
}

/** The longest pause before another attempt to connect. */
const MAX_RETRY_MS = 500

/** Over HTTP, callers poll. */
const NEVER_LIVE: ChannelSubscription = {
  live: false,
  caughtUp: async () => { throw new Error('not connected') },
  close () {}
}

/** Subscribes on its own connection, and again on another one after each loss of it. */
export function subscribeToChannel (options: ChannelSubscriptionOptions): ChannelSubscription {
  return options.client.isHttp ? NEVER_LIVE : new RedisChannelSubscription(options)
}

class RedisChannelSubscription implements ChannelSubscription {
  readonly #options: ChannelSubscriptionOptions
  readonly #clock: Clock
  #subscriber: Subscriber | undefined
  #pause: Timer | undefined
  #isLive = false
  #hasWarned = false
  #isClosed = false
  #attempts = 0

  constructor (options: ChannelSubscriptionOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
    // Closing the client ends this connection as well, also without closing the app.
    options.client.on('end', this.close)
    this.#connect()
  }

  get live (): boolean {
    return this.#isLive
  }

  // A connection delivers replies and messages in the server's order.
  async caughtUp (): Promise<void> {
    if (this.#subscriber === undefined) throw new Error('not connected')
    await this.#subscriber.ping().catch(throwOutage)
  }

  readonly close = (): void => {
    this.#isClosed = true
    this.#options.client.off('end', this.close)
    this.#clock.clearTimeout(this.#pause)
    this.#subscriber?.close()
  }

  #connect (): void {
    if (this.#isClosed) return
    const { client, onMessage } = this.#options
    const subscriber = client.subscriber({
      // A peer that accepts the connection and never replies is left to the client's own time-outs.
      ready: () => this.#subscribe(subscriber),
      message: (_subscribed, _channel, text) => onMessage(text),
      ended: () => this.#lose(subscriber)
    })
    this.#subscriber = subscriber
    if (subscriber === undefined) this.#retry()
  }

  #subscribe (subscriber: Subscriber | undefined): void {
    const { channel, onGap, log, plugin, without } = this.#options
    subscriber?.subscribe('subscribe', channel).then(() => {
      if (subscriber !== this.#subscriber) return
      this.#attempts = 0
      this.#isLive = true
      onGap()
    }, (error: unknown) => {
      if (this.#isClosed || isOutage(error)) return
      if (!this.#hasWarned) log.warn({ plugin, reason: reasonOf(error), channel }, without)
      this.#hasWarned = true
    })
  }

  #lose (subscriber: Subscriber | undefined): void {
    if (subscriber !== this.#subscriber) return
    this.#subscriber = undefined
    subscriber?.close()
    if (this.#isLive) {
      this.#isLive = false
      this.#options.onGap()
    }
    this.#retry()
  }

  /** Tries again with back-off and jitter: not all processes at once. */
  #retry (): void {
    if (this.#isClosed) return
    const ceiling = Math.min(MAX_RETRY_MS, 20 * 2 ** Math.min(this.#attempts++, 10))
    this.#pause = this.#clock.setTimeout(() => this.#connect(), ceiling / 2 + Math.random() * ceiling / 2).unref()
  }
}
