import type { Redis } from 'ioredis'
import type { Clock, Timer } from '../../shared/plugin/clock.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import type { Subscription } from './channel-routing.js'

/** A connection that is silent for as long is asked whether it is there. */
const PING_MS = 2000
/** Where the client has no `connectTimeout`. */
const HANDSHAKE_MS = 10_000
/** After a refusal, as by an ACL. */
const REFUSED_RETRY_MS = 1000

export interface SubscriberConnectionListener<S extends Subscription> {
  message (subscribed: string, channel: string, text: string): void
  live (subscription: S): void
  refused (subscription: S, reason: string): void
  /** Once, and the last that it tells: it is of no more use. */
  ended (subscriptions: Iterable<S>): void
}

/**
 * A connection for listening, which lives once: what goes wrong with it ends it, and whoever owns it makes another. So there
 * is one way in which subscriptions come about, and nothing that ioredis would do again behind our back.
 */
export class SubscriberConnection<S extends Subscription> {
  readonly #redis: Redis
  readonly #listener: SubscriberConnectionListener<S>
  readonly #clock: Clock
  readonly #subscriptions = new Set<S>()
  #heartbeat: Timer | undefined
  #handshake: Timer | undefined
  #hasEnded = false

  constructor (redis: Redis, listener: SubscriberConnectionListener<S>, clock: Clock) {
    this.#redis = redis
    this.#listener = listener
    this.#clock = clock
    // The client it was made from logs the connection's troubles.
    redis.on('error', () => {})
    // Of a peer that takes the connection and then says nothing a client without time-outs would never hear.
    redis.on('connect', () => { this.#handshake = clock.setTimeout(() => this.end(), redis.options.connectTimeout || HANDSHAKE_MS).unref() })
    redis.on('ready', () => this.#begin())
    redis.on('close', () => this.end())
    redis.on('end', () => this.end())
    // A slot has moved to another server.
    redis.on('moved', () => this.end())
    const hear = (channel: string, text: string) => listener.message(channel, channel, text)
    redis.on('message', hear)
    redis.on('smessage', hear)
    redis.on('pmessage', (glob: string, channel: string, text: string) => listener.message(glob, channel, text))
    redis.connect().catch(() => this.end())
  }

  add (subscription: S): void {
    this.#subscriptions.add(subscription)
    if (this.#isReady) this.#subscribe(subscription)
  }

  async remove (subscription: S): Promise<void> {
    this.#subscriptions.delete(subscription)
    if (!this.#isReady) return
    const { verb, channel } = subscription
    // A connection that breaks forgets its subscriptions as well.
    await this.#redis[UNSUBSCRIBE[verb]](channel).catch(() => {})
  }

  /** Cuts it. */
  end (): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    this.#clock.clearInterval(this.#heartbeat)
    this.#clock.clearTimeout(this.#handshake)
    this.#redis.disconnect()
    this.#listener.ended(this.#subscriptions)
  }

  get #isReady (): boolean {
    return !this.#hasEnded && this.#redis.status === 'ready'
  }

  #begin (): void {
    if (this.#hasEnded) return
    this.#clock.clearTimeout(this.#handshake)
    for (const subscription of this.#subscriptions) this.#subscribe(subscription)
    // Of a peer that vanished without a word nothing is heard but silence.
    this.#heartbeat = this.#clock.setInterval(() => {
      withDeadline(this.#redis.ping(), PING_MS, () => new Error('no answer'), this.#clock).catch((error: unknown) => { if (!isRefusal(error)) this.end() })
    }, PING_MS)
    this.#heartbeat.unref()
  }

  #subscribe (subscription: S): void {
    const { verb, channel } = subscription
    this.#redis[verb](channel).then(
      () => { if (this.#subscriptions.has(subscription)) this.#listener.live(subscription) },
      (error: unknown) => { this.#failed(subscription, error) })
  }

  #failed (subscription: S, error: unknown): void {
    if (this.#hasEnded || !this.#subscriptions.has(subscription)) return
    if (!isRefusal(error)) return this.end()
    this.#listener.refused(subscription, reasonOf(error))
    this.#clock.setTimeout(() => {
      if (this.#isReady && this.#subscriptions.has(subscription)) this.#subscribe(subscription)
    }, REFUSED_RETRY_MS).unref()
  }
}

const UNSUBSCRIBE = { subscribe: 'unsubscribe', psubscribe: 'punsubscribe', ssubscribe: 'sunsubscribe' } as const

/** Whether the server said no, and not that it or the slot is elsewhere or not there yet. */
function isRefusal (error: unknown): boolean {
  return error instanceof Error && error.name === 'ReplyError' && !/^(MOVED|ASK|LOADING|CLUSTERDOWN|MASTERDOWN)\b/.test(error.message)
}
