import type { Clock, Timer } from '../../shared/plugin/clock.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import type { Subscriber, SubscriberListener } from '../../shared/redis/port.js'
import type { Subscription } from './channel-routing.js'

/** The interval of PINGs, and the deadline of each. */
const PING_MS = 2000
/** How long to wait after a refusal, for example by an ACL. */
const REFUSED_RETRY_MS = 1000

interface SubscriberConnectionListener<S extends Subscription> {
  message (subscribed: string, channel: string, text: string): void
  live (subscription: S): void
  refused (subscription: S, reason: string): void
  /** Called once, after all other calls: the connection cannot be used any more. */
  ended (subscriptions: Iterable<S>): void
}

/**
 * A connection for subscriptions that is never reconnected: any failure ends it, and its owner opens another one.
 * Subscriptions are thus made in one way only, and the client library repeats none of them by itself.
 */
export class SubscriberConnection<S extends Subscription> {
  #subscriber: Subscriber | undefined
  readonly #listener: SubscriberConnectionListener<S>
  readonly #clock: Clock
  readonly #subscriptions = new Set<S>()
  #heartbeat: Timer | undefined
  #handshake: Timer | undefined
  #hasEnded = false

  constructor (listener: SubscriberConnectionListener<S>, clock: Clock) {
    this.#listener = listener
    this.#clock = clock
  }

  /** @returns whether there is a server to connect to */
  open (connect: (listener: SubscriberListener) => Subscriber | undefined): boolean {
    this.#subscriber = connect({
      // A peer may accept the connection and never reply, which a client without a timeout would not notice.
      connected: () => {
        const timeout = this.#subscriber?.connectTimeout ?? 0
        this.#handshake = this.#clock.setTimeout(() => this.end(), timeout).unref()
      },
      ready: () => this.#begin(),
      message: (subscribed, channel, text) => this.#listener.message(subscribed, channel, text),
      ended: () => this.end()
    })
    return this.#subscriber !== undefined
  }

  add (subscription: S): void {
    this.#subscriptions.add(subscription)
    if (this.#isReady) this.#subscribe(subscription)
  }

  async remove (subscription: S): Promise<void> {
    this.#subscriptions.delete(subscription)
    if (!this.#isReady) return
    const { verb, channel } = subscription
    // If the connection breaks, the server drops its subscriptions as well.
    await this.#subscriber?.unsubscribe(verb, channel).catch(() => {})
  }

  /** Closes the connection. */
  end (): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    this.#clock.clearInterval(this.#heartbeat)
    this.#clock.clearTimeout(this.#handshake)
    this.#subscriber?.close()
    this.#listener.ended(this.#subscriptions)
  }

  get #isReady (): boolean {
    return !this.#hasEnded && this.#subscriber?.isReady === true
  }

  #begin (): void {
    const subscriber = this.#subscriber
    if (this.#hasEnded || subscriber === undefined) return
    this.#clock.clearTimeout(this.#handshake)
    for (const subscription of this.#subscriptions) this.#subscribe(subscription)
    // A peer may vanish without closing the connection.
    this.#heartbeat = this.#clock.setInterval(() => {
      withDeadline(subscriber.ping(), PING_MS, () => new Error('no reply'), this.#clock)
        .catch((error: unknown) => { if (!isRefusal(error)) this.end() })
    }, PING_MS)
    this.#heartbeat.unref()
  }

  #subscribe (subscription: S): void {
    const { verb, channel } = subscription
    this.#subscriber?.subscribe(verb, channel).then(
      () => { if (this.#subscriptions.has(subscription)) this.#listener.live(subscription) },
      (error: unknown) => this.#onFailure(subscription, error))
  }

  #onFailure (subscription: S, error: unknown): void {
    if (this.#hasEnded || !this.#subscriptions.has(subscription)) return
    if (!isRefusal(error)) return this.end()
    this.#listener.refused(subscription, reasonOf(error))
    this.#clock.setTimeout(() => {
      if (this.#isReady && this.#subscriptions.has(subscription)) this.#subscribe(subscription)
    }, REFUSED_RETRY_MS).unref()
  }
}

/**
 * Returns whether the server refused a command, other than because the slot or the data is elsewhere or not loaded yet.
 */
function isRefusal (error: unknown): boolean {
  return error instanceof Error && error.name === 'ReplyError' &&
    !/^(MOVED|ASK|LOADING|CLUSTERDOWN|MASTERDOWN)\b/.test(error.message)
}
