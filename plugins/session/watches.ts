import type { FastifyBaseLogger } from 'fastify'
import { systemClock, type Clock, type Timer } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS } from '../shared/plugin/duration.js'
import { isOutage, reasonOf } from '../shared/plugin/errors.js'
import { callListener } from '../shared/plugin/safe-emitter.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import type { ChannelSubscription } from '../shared/redis/channel-subscription.js'
import { dateOf } from './cookie/cookie-rules.js'
import type { SaveOptions } from './save-session.js'

interface Watch {
  readonly handle: string
  /** The time between two checks. */
  readonly interval: Milliseconds
  readonly onEnd: () => unknown
  timer: Timer | undefined
}

interface WatchesOptions {
  /** Returns how long a session lives unless it is used; 0 if it has ended. Rejects while the store is unavailable. */
  lifeOf: (handle: string) => Promise<Milliseconds>
  /** Subscribes to the ends of sessions on other instances; undefined without Redis. */
  follow: ((listeners: { onMessage: (handle: string) => void, onGap: () => void }) => ChannelSubscription) | undefined
  clock: Clock
  log: FastifyBaseLogger
}

// More at once could miss their deadlines by each other.
const MAX_CHECKS_AT_ONCE = 100
/**
 * The time between two tries to look sessions up after messages may have been lost: the channel may be back before the
 * circuit closes.
 */
const RECHECK_MS = 500

/**
 * Calls a function when a session ends: at once by `destroy` on any instance, and by time when its time-out has passed.
 * Each session is also looked up once in an interval, in case a message is lost.
 */
export class Watches {
  readonly #options: WatchesOptions
  readonly #watches = new Map<string, Set<Watch>>()
  // The first watch opens the subscription's connection.
  #subscription: ChannelSubscription | undefined
  /** The handles that could not be looked up. */
  readonly #unknown = new Set<string>()
  #recheck: Timer | undefined
  #isClosed = false
  #hasWarned = false

  constructor (options: WatchesOptions) {
    this.#options = options
  }

  /** @returns a function that ends the watch */
  add (handle: string, interval: number, onEnd: () => unknown): () => void {
    const watch: Watch = { handle, interval, onEnd, timer: undefined }
    if (this.#isClosed) return () => {}
    this.#watches.set(handle, (this.#watches.get(handle) ?? new Set()).add(watch))
    this.#subscription ??= this.#options.follow?.({
      onMessage: ended => this.ended(ended),
      onGap: () => { if (this.#subscription?.live === true) this.#checkAll() }
    })
    // The session may have ended since it was read.
    this.#check(watch)
    return () => this.#remove(watch)
  }

  /** Call it when a session has ended. */
  ended (handle: string): void {
    for (const watch of this.#watches.get(handle) ?? []) {
      this.#remove(watch)
      callListener({ plugin: 'session', event: 'end' }, this.#options.log, watch.onEnd)
    }
  }

  close (): void {
    this.#isClosed = true
    for (const watches of this.#watches.values()) {
      for (const { timer } of watches) this.#options.clock.clearTimeout(timer)
    }
    this.#watches.clear()
    this.#options.clock.clearTimeout(this.#recheck)
    this.#subscription?.close()
  }

  #isActive (watch: Watch): boolean {
    return this.#watches.get(watch.handle)?.has(watch) === true
  }

  #remove (watch: Watch): void {
    const watches = this.#watches.get(watch.handle)
    watches?.delete(watch)
    if (watches?.size === 0) this.#watches.delete(watch.handle)
    this.#options.clock.clearTimeout(watch.timer)
  }

  /** Looks the session up, and again when its time-out or the interval has passed. */
  async #check (watch: Watch): Promise<void> {
    const life = await this.#lifeOf(watch.handle) ?? Infinity
    if (!this.#isActive(watch)) return
    if (life === 0) return this.ended(watch.handle)
    watch.timer = this.#options.clock.setTimeout(
      () => this.#check(watch), Math.min(life, watch.interval, MAX_TIMER_MS)
    ).unref()
  }

  /** Looks up all sessions, after messages may have been lost. */
  async #checkAll (handles: readonly string[] = [...this.#watches.keys()]): Promise<void> {
    for (let i = 0; i < handles.length; i += MAX_CHECKS_AT_ONCE) {
      await Promise.all(handles.slice(i, i + MAX_CHECKS_AT_ONCE).map(async handle => {
        const life = await this.#lifeOf(handle)
        this.#unknown.delete(handle)
        if (life === 0) this.ended(handle)
        else if (life === undefined && this.#watches.has(handle)) this.#unknown.add(handle)
      }))
    }
    const { clock } = this.#options
    clock.clearTimeout(this.#recheck)
    if (this.#unknown.size === 0 || this.#isClosed) return
    this.#recheck = clock.setTimeout(() => this.#checkAll([...this.#unknown]), RECHECK_MS).unref()
  }

  /** Returns undefined while the store is unavailable: an outage ends no session. */
  async #lifeOf (handle: string): Promise<number | undefined> {
    try {
      return await this.#options.lifeOf(handle)
    } catch (error) {
      this.#warn(error)
      return isOutage(error) ? undefined : Infinity
    }
  }

  /** An outage is logged by the plugin that notices it. */
  #warn (error: unknown): void {
    if (this.#hasWarned || isOutage(error)) return
    this.#hasWarned = true
    this.#options.log.warn(
      { plugin: 'session', reason: reasonOf(error) },
      'session: a watched session cannot be looked up, so its streams stay open unless a message reports its end ' +
      '(logged once)'
    )
  }
}

/** Returns the time until a session ends unless it is used; 0 for one that has ended. */
export async function lifeOf (
  handle: string, { store, run, codec }: Pick<SaveOptions, 'store' | 'run' | 'codec'>
): Promise<Milliseconds> {
  const [life, stored] = await Promise.all([run(() => store.lifeOf(handle)), store.read(handle)])
  const fields = stored && codec.openFields(handle, stored)
  if (fields === undefined) return 0
  const { expires } = (fields['cookie'] ?? {}) as { expires?: unknown }
  const expiresAt = dateOf(expires)?.getTime() ?? Infinity
  // By the clock that `@fastify/session` reads.
  return Math.max(0, Math.min(life, expiresAt - systemClock.now()))
}
