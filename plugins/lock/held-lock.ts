import type { Clock, Timer } from '../shared/plugin/clock.js'
import { LeaseRenewal } from '../shared/plugin/lease-renewal.js'
import { about, ClosedError, LostError, ReleasedError } from './errors.js'
import type { LockStore } from './store.js'

/** What is told of a lock to whom it protects. */
export interface HeldLock {
  /** What is locked, as it was asked for. */
  readonly resources: readonly string[]
  /** The fencing token of the first resource that was asked for. */
  readonly token: number
  /** The fencing token of each. It is above all that were given out for this resource before. */
  readonly tokens: ReadonlyMap<string, number>
  /** Whether the lock is this one's still, as far as this process can be certain of it. It is right where the signal is late, as after a pause. */
  readonly isHeld: boolean
  /** Until when, unless it is extended: milliseconds since the epoch, by this process's clock. */
  readonly expiresAt: number
}

/** A lock that is released by hand. */
export interface LockHandle extends HeldLock {
  /** Aborts when the lock is lost, with `FST_REDIS_SUITE_LOCK_LOST` as its reason, or when the app closes, with `_CLOSED`. */
  readonly signal: AbortSignal
  /**
   * Has it stand for another `ttl` from now.
   *
   * @throws `FST_REDIS_SUITE_LOCK_LOST`, `FST_REDIS_SUITE_LOCK_RELEASED`, `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE`
   */
  extend (): Promise<void>
  /**
   * @returns whether it was held until then
   * @throws `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE`: it ends by its TTL
   */
  release (): Promise<boolean>
  /** Releases it; never rejects. */
  [Symbol.asyncDispose] (): Promise<void>
}

export interface HeldLockOptions {
  resources: readonly string[]
  store: LockStore
  clock: Clock
  ttl: number
  clockDrift: number
  extend: boolean
  onLost: (error: Error) => void
  onReleased: () => void
}

/** How often an extension is tried again, in parts of the TTL, while it fails. */
const RETRIES = 20
const TOO_LATE = 'it could not be extended in time'
export const GONE = 'Redis does not have it any more'

/** One owner's locks: what this process may be certain of, and what keeps it so. */
export class HeldLockHandle implements LockHandle {
  readonly #options: HeldLockOptions
  readonly #clock: Clock
  readonly #abort = new AbortController()
  readonly tokens = new Map<string, number>()
  readonly #owners = new Map<string, string>()
  /** By the clock's `monotonic()`. */
  readonly #untils = new Map<string, number>()
  #renewal: LeaseRenewal | undefined
  #expiry: Timer | undefined
  #lost: Error | undefined
  #isComplete = false
  #released: Promise<boolean> | undefined

  constructor (options: HeldLockOptions) {
    this.#options = options
    this.#clock = options.clock
  }

  get ttl (): number {
    return this.#options.ttl
  }

  /** Fires when one of the locks may be somebody else's, or the app closes. */
  get signal (): AbortSignal {
    return this.#abort.signal
  }

  get resources (): readonly string[] {
    return this.#options.resources
  }

  get token (): number {
    return this.tokens.get(this.resources[0] ?? '') ?? 0
  }

  get isHeld (): boolean {
    return this.#isUsed && !this.#isOver
  }

  /** Until the first of them ends. */
  get #until (): number {
    return Math.min(...this.#untils.values())
  }

  /** Why the lock was lost, if it was. */
  get lost (): Error | undefined {
    return this.#lost
  }

  /** Whether all resources were locked once: only then anything can have been done under the lock. */
  get isComplete (): boolean {
    return this.#isComplete
  }

  get #isOver (): boolean {
    return this.#clock.monotonic() >= this.#until
  }

  get #isUsed (): boolean {
    return this.#released === undefined && this.#lost === undefined
  }

  get expiresAt (): number {
    return this.isHeld ? Math.floor(this.#clock.now() + this.#until - this.#clock.monotonic()) : 0
  }

  /** Until when a lock is certain that was asked for at `asked`, by the clock's `monotonic()`. */
  certainUntil (asked: number): number {
    const { ttl, clockDrift } = this.#options
    return asked + ttl - ttl * clockDrift - 1
  }

  /** From the first one on all are extended, also while others are waited for. */
  add (resource: string, owner: string, token: number, asked: number): void {
    this.#owners.set(resource, owner)
    this.tokens.set(resource, token)
    this.#setUntil(resource, asked)
    if (this.tokens.size > 1 || !this.#isUsed || this.signal.aborted) return
    const { clock, ttl } = this.#options
    this.#renewal = new LeaseRenewal({ clock, lease: ttl, renew: () => this.extend(), retryDelay: ttl / RETRIES })
  }

  /** All are there. */
  complete (): void {
    this.#isComplete = true
    if (!this.#options.extend) this.#renewal?.stop()
  }

  /** @throws `FST_REDIS_SUITE_LOCK_LOST`, `FST_REDIS_SUITE_LOCK_RELEASED`, `FST_REDIS_SUITE_LOCK_CLOSED` (rejects) */
  async throwIfOver (): Promise<void> {
    if (this.#isOver) await pollPhase()
    if (this.#isOver) this.#lose(TOO_LATE)
    if (this.#lost !== undefined) throw this.#lost
    if (this.#released !== undefined) throw this.signal.reason instanceof ClosedError ? this.signal.reason : new ReleasedError()
  }

  async extend (): Promise<void> {
    await this.throwIfOver()
    const { store, ttl } = this.#options
    const asked = this.#clock.monotonic()
    const extended = Array.from(this.#owners, async ([resource, owner]) => {
      if (!await store.extend(resource, owner, ttl, this.tokens.get(resource) ?? 0)) this.#lose(GONE, resource)
      else this.#setUntil(resource, asked)
    })
    const failure = (await Promise.allSettled(extended)).find(answer => answer.status === 'rejected')
    await this.throwIfOver()
    if (failure !== undefined) throw failure.reason
  }

  async release (): Promise<boolean> {
    this.#released ??= this.#giveBack(this.isHeld).finally(this.#options.onReleased)
    return await this.#released
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.release().catch(() => {})
  }

  /** It stands as long as it does, and is not extended any more. */
  stop (reason: Error): void {
    this.#renewal?.stop()
    this.#abort.abort(reason)
  }

  async #giveBack (wasHeld: boolean): Promise<boolean> {
    this.#clock.clearTimeout(this.#expiry)
    // An extension that comes late must not outlive the release.
    await this.#renewal?.stop()
    const { store } = this.#options
    const answers = await Promise.allSettled(Array.from(this.#owners, async ([resource, owner]) => await store.release(resource, owner)))
    const failure = answers.find(answer => answer.status === 'rejected')
    if (failure !== undefined) throw failure.reason
    return wasHeld && answers.every(answer => answer.status === 'fulfilled' && answer.value)
  }

  #lose (why: string, resource = this.resources.join(', ')): void {
    if (!this.#isUsed) return
    this.#renewal?.stop()
    this.#clock.clearTimeout(this.#expiry)
    this.#lost = about(new LostError(why), resource)
    this.#abort.abort(this.#lost)
    this.#options.onLost(this.#lost)
  }

  #setUntil (resource: string, asked: number): void {
    this.#untils.set(resource, this.certainUntil(asked))
    this.#watch()
  }

  #watch (): void {
    this.#clock.clearTimeout(this.#expiry)
    if (!this.#isUsed) return
    const left = Math.max(0, Math.ceil(this.#until - this.#clock.monotonic()))
    this.#expiry = this.#clock.setTimeout(() => {
      pollPhase().then(() => {
        if (this.#isOver) this.#lose(TOO_LATE)
        else this.#watch()
      })
    }, left).unref()
  }
}

/**
 * After a stall of this process, timers fire before answers are read that arrived meanwhile. The answer to an extension must
 * be read first: it may say that the lock stands.
 */
function pollPhase (): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}
