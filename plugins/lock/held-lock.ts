import type { Clock, Timer } from '../shared/plugin/clock.js'
import { LeaseRenewal } from '../shared/plugin/lease-renewal.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import { ClosedError, LostError, ReleasedError, withResource } from './errors.js'
import type { LockStore } from './store.js'

/** A lock, as the section that it protects sees it. */
export interface HeldLock {
  /** The locked resources, as the caller named them. */
  readonly resources: readonly string[]
  /** The fencing token of the first resource that the caller named. */
  readonly token: number
  /** The fencing token of each resource. It is above all tokens that were issued for the resource before. */
  readonly tokens: ReadonlyMap<string, number>
  /** Whether this process certainly has the lock. After a pause this is right at once, and the signal is late. */
  readonly isHeld: boolean
  /** When the lock expires unless it is extended: milliseconds since the epoch, by this process's clock. */
  readonly expiresAt: number
}

/** A lock that its caller releases. */
export interface LockHandle extends HeldLock {
  /** Aborts when the lock is lost (reason `FST_REDIS_SUITE_LOCK_LOST`), or when the app closes (`…_CLOSED`). */
  readonly signal: AbortSignal
  /**
   * Extends the lock: its `ttl` starts again.
   *
   * @throws `FST_REDIS_SUITE_LOCK_LOST`, `FST_REDIS_SUITE_LOCK_RELEASED`, `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE`
   */
  extend (): Promise<void>
  /**
   * Releases the lock.
   *
   * @returns whether this caller had the lock until now
   * @throws `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE`; the lock then expires by its `ttl`
   */
  release (): Promise<boolean>
  /** Releases the lock; never rejects. */
  [Symbol.asyncDispose] (): Promise<void>
}

interface HeldLockOptions {
  resources: readonly string[]
  store: LockStore
  clock: Clock
  ttl: Milliseconds
  clockDrift: number
  extend: boolean
  onLost: (error: Error) => void
  onReleased: () => void
}

/** A failed extension is repeated after this part of the TTL. */
const RETRIES_PER_TTL = 20
const NOT_EXTENDED = 'it was not extended in time'
export const NOT_IN_STORE = 'Redis does not have it any more'

/** The locks of one owner: extends them, and knows until when this process can be certain of them. */
export class HeldLockHandle implements LockHandle {
  readonly #options: HeldLockOptions
  readonly #clock: Clock
  readonly #abort = new AbortController()
  readonly tokens = new Map<string, number>()
  readonly #owners = new Map<string, string>()
  /** By resource and the clock's `monotonic()`. */
  readonly #certainUntil = new Map<string, number>()
  #renewal: LeaseRenewal | undefined
  #expiry: Timer | undefined
  #lost: Error | undefined
  #isComplete = false
  #released: Promise<boolean> | undefined

  constructor (options: HeldLockOptions) {
    this.#options = options
    this.#clock = options.clock
  }

  get ttl (): Milliseconds {
    return this.#options.ttl
  }

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
    return this.#isActive && !this.#isExpired
  }

  get expiresAt (): number {
    return this.isHeld ? Math.floor(this.#clock.now() + this.#firstExpiry - this.#clock.monotonic()) : 0
  }

  /** The error with which the lock was lost, if it was. */
  get lost (): Error | undefined {
    return this.#lost
  }

  /** Whether all resources were locked once: before that, no section runs under the lock. */
  get isComplete (): boolean {
    return this.#isComplete
  }

  /** When the first of the locks expires, by the clock's `monotonic()`. */
  get #firstExpiry (): number {
    return Math.min(...this.#certainUntil.values())
  }

  get #isExpired (): boolean {
    return this.#clock.monotonic() >= this.#firstExpiry
  }

  get #isActive (): boolean {
    return this.#released === undefined && this.#lost === undefined
  }

  /** Returns until when a lock is certain that was requested at `requestedAt`; both by the clock's `monotonic()`. */
  certainUntil (requestedAt: number): number {
    const { ttl, clockDrift } = this.#options
    return requestedAt + ttl - ttl * clockDrift - 1
  }

  /** Adds a lock. From the first one on all are extended, also while others are waited for. */
  add (resource: string, owner: string, token: number, requestedAt: number): void {
    this.#owners.set(resource, owner)
    this.tokens.set(resource, token)
    this.#setCertain(resource, requestedAt)
    if (this.tokens.size > 1 || !this.#isActive || this.signal.aborted) return
    const { clock, ttl } = this.#options
    this.#renewal = new LeaseRenewal({
      clock, lease: ttl, renew: () => this.extend(), retryDelay: ttl / RETRIES_PER_TTL
    })
  }

  /** Notes that all resources are locked. */
  complete (): void {
    this.#isComplete = true
    if (!this.#options.extend) this.#renewal?.stop()
  }

  /** @throws `FST_REDIS_SUITE_LOCK_LOST`, `FST_REDIS_SUITE_LOCK_RELEASED`, `FST_REDIS_SUITE_LOCK_CLOSED` (rejects) */
  async throwIfOver (): Promise<void> {
    if (this.#isExpired) await pollPhase()
    if (this.#isExpired) this.#lose(NOT_EXTENDED)
    if (this.#lost !== undefined) throw this.#lost
    if (this.#released !== undefined) {
      throw this.signal.reason instanceof ClosedError ? this.signal.reason : new ReleasedError()
    }
  }

  async extend (): Promise<void> {
    await this.throwIfOver()
    const { store, ttl } = this.#options
    const requestedAt = this.#clock.monotonic()
    const extended = Array.from(this.#owners, async ([resource, owner]) => {
      if (!await store.extend(resource, owner, ttl, this.tokens.get(resource) ?? 0)) this.#lose(NOT_IN_STORE, resource)
      else this.#setCertain(resource, requestedAt)
    })
    const failure = (await Promise.allSettled(extended)).find(result => result.status === 'rejected')
    await this.throwIfOver()
    if (failure !== undefined) throw failure.reason
  }

  /**
   * Records that the job under this lock has run in a period.
   *
   * @throws `FST_REDIS_SUITE_LOCK_LOST`, `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE`
   */
  async markDone (tick: string, ttl: Milliseconds): Promise<void> {
    for (const [resource, owner] of this.#owners) {
      if (!await this.#options.store.markDone(resource, owner, tick, ttl)) this.#lose(NOT_IN_STORE, resource)
    }
    if (this.#lost !== undefined) throw this.#lost
  }

  async release (): Promise<boolean> {
    this.#released ??= this.#releaseAll(this.isHeld).finally(this.#options.onReleased)
    return await this.#released
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.release().catch(() => {})
  }

  /** Aborts the signal and ends the extensions. The lock itself stays until it expires or is released. */
  stop (reason: Error): void {
    this.#renewal?.stop()
    this.#abort.abort(reason)
  }

  async #releaseAll (wasHeld: boolean): Promise<boolean> {
    this.#clock.clearTimeout(this.#expiry)
    // An extension that arrives late must not outlive the release.
    await this.#renewal?.stop()
    const { store } = this.#options
    const results = await Promise.allSettled(
      Array.from(this.#owners, async ([resource, owner]) => await store.release(resource, owner))
    )
    const failure = results.find(result => result.status === 'rejected')
    if (failure !== undefined) throw failure.reason
    return wasHeld && results.every(result => result.status === 'fulfilled' && result.value)
  }

  #lose (why: string, resource = this.resources.join(', ')): void {
    if (!this.#isActive) return
    this.#clock.clearTimeout(this.#expiry)
    this.#lost = withResource(new LostError(why), resource)
    this.stop(this.#lost)
    this.#options.onLost(this.#lost)
  }

  #setCertain (resource: string, requestedAt: number): void {
    this.#certainUntil.set(resource, this.certainUntil(requestedAt))
    this.#watchExpiry()
  }

  #watchExpiry (): void {
    this.#clock.clearTimeout(this.#expiry)
    if (!this.#isActive) return
    const left = Math.max(0, Math.ceil(this.#firstExpiry - this.#clock.monotonic()))
    this.#expiry = this.#clock.setTimeout(() => {
      pollPhase().then(() => {
        if (this.#isExpired) this.#lose(NOT_EXTENDED)
        else this.#watchExpiry()
      })
    }, left).unref()
  }
}

/**
 * Resolves after the poll phase of the event loop. After a stall of this process, timers fire before replies are read
 * that arrived meanwhile, and one of these may be that of an extension.
 */
function pollPhase (): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}
