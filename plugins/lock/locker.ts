import type { FastifyBaseLogger } from 'fastify'
import { sleep, type Clock } from '../shared/plugin/clock.js'
import { invalidArgumentError, reasonOf } from '../shared/plugin/errors.js'
import type { Waiters } from './waiters.js'
import { about, ClosedError, LostError } from './errors.js'
import { GONE, HeldLockHandle, type HeldLock, type LockHandle } from './held-lock.js'
import { resolveLockOptions, type LockOptions, type ResolvedLockOptions, type ResolvedLockPluginOptions } from './options.js'
import { checkResources } from './resources.js'
import type { LockStore } from './store.js'
import { MAX_LATE_ATTEMPTS, waitForLock } from './wait-for-lock.js'

/** What is done under a lock. */
export type Section<T> = (signal: AbortSignal, lock: HeldLock) => T | Promise<T>

interface LockerOptions extends ResolvedLockPluginOptions {
  store: LockStore
  bells: Waiters
  log: FastifyBaseLogger
}

/** Locks, on any store: waits for them, keeps them and gives them back. */
export class Locker {
  readonly #options: LockerOptions
  readonly #holdings = new Set<HeldLockHandle>()
  readonly #sections = new Map<HeldLockHandle, Promise<unknown>>()
  #state: 'open' | 'closing' | 'closed' = 'open'

  constructor (options: LockerOptions) {
    this.#options = options
  }

  /**
   * Runs `fn` while nobody else has the lock of a resource, or of several, and extends the lock as long as it runs.
   *
   * @param fn - is given a signal that aborts when the lock is lost, and the lock's fencing token
   * @returns what `fn` returns
   * @throws what `fn` throws; `FST_REDIS_SUITE_LOCK_LOCKED` (423) where it was not free within `wait`, `_LOST` where it was lost
   * before `fn` was done, `_STORE_UNAVAILABLE` (503), `_CLOSED` (503), `_INVALID_OPTION`, and the reason of the option `signal`
   */
  using<T> (resource: string | readonly string[], fn: Section<T>): Promise<T>
  using<T> (resource: string | readonly string[], options: LockOptions, fn: Section<T>): Promise<T>
  async using<T> (resource: string | readonly string[], ...rest: [Section<T>] | [LockOptions, Section<T>]): Promise<T> {
    const [options, fn] = rest.length === 1 ? [undefined, rest[0]] : rest
    if (typeof fn !== 'function') throw invalidArgumentError('lock', 'fn', fn, 'a function')
    const resources = checkResources(resource)
    const holding = await this.#acquire(resources, options, true)
    const result = (async () => await fn(holding.signal, holding))()
    this.#sections.set(holding, result)
    try {
      await result
      await holding.throwIfOver()
    } catch (error) {
      await holding.release().catch(() => {})
      throw error
    } finally {
      this.#sections.delete(holding)
    }
    // The lock was certain when the work was done, so it does not matter that the store does not answer now. That it has none does.
    const wasHeld = await holding.release().catch(() => true)
    if (!wasHeld) throw about(new LostError(GONE), resources.join(', '))
    return await result
  }

  /**
   * As {@link Locker.using}, for what is not one function. Unless the option `extend` is set, the lock ends by its `ttl`.
   */
  async acquire (resource: string | readonly string[], options?: LockOptions): Promise<LockHandle> {
    return await this.#acquire(checkResources(resource), options, false)
  }

  /** @throws `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE` */
  async isLocked (resource: string): Promise<boolean> {
    const [name = ''] = checkResources([resource])
    return await this.#options.store.isLocked(name)
  }

  /** From now on nobody waits. */
  stopWaiting (): void {
    this.#state = 'closing'
    this.#options.bells.callAll()
  }

  /** Waits for what is done under locks, no longer than these stand by themselves, and gives all locks back. */
  async close (): Promise<void> {
    this.#state = 'closed'
    this.#options.bells.callAll()
    await Promise.all(Array.from(this.#holdings, async holding => {
      const section = this.#sections.get(holding)
      holding.stop(new ClosedError())
      if (section !== undefined) await Promise.race([section.catch(() => {}), end(holding, this.#options.clock)])
      await holding.release().catch(() => {})
    }))
    this.#options.store.close()
  }

  async #acquire (resources: readonly string[], given: LockOptions | undefined, extend: boolean): Promise<HeldLockHandle> {
    const options = resolveLockOptions(given ?? {}, this.#options)
    const { clock } = this.#options
    const deadline = clock.monotonic() + options.wait
    for (let attempt = 1; ; attempt++) {
      const holding = this.#open(resources, options, extend)
      try {
        await this.#takeAll(holding, options, deadline)
        return holding
      } catch (error) {
        const released = holding.release().catch(() => {})
        // A lock that was lost while others were waited for: nothing was done under it, so all of them are taken again.
        const isLost = holding.lost !== undefined && error === holding.lost
        if (!isLost || (attempt >= MAX_LATE_ATTEMPTS && clock.monotonic() >= deadline)) throw error
        await released
      }
    }
  }

  #open (resources: readonly string[], { ttl, extend }: ResolvedLockOptions, isExtended: boolean): HeldLockHandle {
    const { store, clock, clockDrift, log } = this.#options
    const holding = new HeldLockHandle({
      store,
      clock,
      clockDrift,
      resources,
      ttl,
      extend: extend ?? isExtended,
      onLost: error => {
        this.#holdings.delete(holding)
        if (holding.isComplete) log.warn({ plugin: 'lock', resources, reason: reasonOf(error) }, 'lock: lost')
      },
      onReleased: () => this.#holdings.delete(holding)
    })
    this.#holdings.add(holding)
    return holding
  }

  async #takeAll (holding: HeldLockHandle, options: ResolvedLockOptions, deadline: number): Promise<void> {
    // All in the same order, so that no two wait for each other.
    for (const resource of [...holding.resources].sort()) {
      if (this.#state === 'closed') throw new ClosedError()
      await waitForLock(resource, holding, { ...this.#options, ...options, deadline, isOpen: () => this.#state === 'open' })
    }
    holding.complete()
  }
}

/** Resolves when it ends by itself. */
async function end (holding: HeldLockHandle, clock: Clock): Promise<void> {
  await sleep(clock, Math.max(0, holding.expiresAt - clock.now()), { ref: false })
}
