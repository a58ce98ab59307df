import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { subscribeToChannel, type ChannelSubscription } from '../../shared/redis/channel-subscription.js'
import type { RedisPort } from '../../shared/redis/port.js'
import { emitInvalidated, type CacheEmitter } from '../events.js'
import { isRecord, isTexts } from '../store/entry.js'
import { parseJson } from '../store/entry-codec.js'
import type { L1 } from './l1.js'

/** How long L1 may serve an entry after another instance has invalidated it. */
export const MAX_STALENESS_MS = 100

interface InvalidationBusOptions {
  client: RedisPort
  channel: string
  /** The name of this instance in messages. */
  instanceId: string
  l1: L1
  events: CacheEmitter
  log: FastifyBaseLogger
  /** Whether L1 keeps its entries while the bus is disconnected. */
  keepsOffline: boolean
  clock: Clock
}

/**
 * Applies to L1 what other instances invalidate, as they publish it by Redis pub/sub, which takes about a millisecond.
 *
 * The bus verifies that it has missed no message: while L1 is in use, it sends a PING on the subscriber's connection
 * every half of `MAX_STALENESS_MS`. The reply comes after all earlier messages. Without a recent reply L1 is not used.
 */
export class InvalidationBus {
  readonly #options: InvalidationBusOptions
  readonly #subscription: ChannelSubscription
  /**
   * When the last PING was sent that has been answered, by the clock's `monotonic()`; -Infinity while the bus is
   * disconnected.
   */
  #verifiedAt = -Infinity
  #isVerifying = false

  constructor (options: InvalidationBusOptions) {
    const { client, channel, l1, log, clock, keepsOffline } = options
    this.#options = options
    this.#subscription = subscribeToChannel({
      client,
      plugin: 'cache',
      channel,
      log,
      clock,
      without: 'cache: cannot subscribe to invalidations, so L1 is not used',
      onMessage: text => this.#receive(parseJson(text)),
      onGap: () => {
        this.#verifiedAt = -Infinity
        if (this.#subscription.live || !keepsOffline) l1.clear()
      }
    })
  }

  /**
   * Whether all messages were received that had been published up to `MAX_STALENESS_MS` before `now`.
   *
   * @param now - by the clock's `monotonic()`
   */
  isCurrentAt (now: number): boolean {
    const age = now - this.#verifiedAt
    if (age > MAX_STALENESS_MS / 2) this.#verifySubscription(now)
    return age <= MAX_STALENESS_MS
  }

  close (): void {
    this.#subscription.close()
  }

  #verifySubscription (now: number): void {
    if (this.#isVerifying || !this.#subscription.live) return
    this.#isVerifying = true
    this.#subscription.caughtUp()
      .then(() => { if (this.#subscription.live) this.#verifiedAt = now }, () => {})
      .finally(() => { this.#isVerifying = false })
  }

  #receive (message: unknown): void {
    const { l1, events, instanceId } = this.#options
    const { from, tags, ids, key } = isRecord(message) ? message : {}
    if (isTexts(tags)) l1.invalidate(tags)
    else if (isTexts(ids)) l1.remove(ids)
    // An unreadable message may have invalidated anything.
    else l1.clear()
    if (from === instanceId) return
    if (isTexts(tags)) emitInvalidated(events, tags, 'remote')
    else if (typeof key === 'string') events.emit('invalidate', { key, origin: 'remote' })
  }
}
