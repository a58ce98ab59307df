import type { FastifyBaseLogger } from 'fastify'
import { sleep } from '../shared/plugin/clock.js'
import { invalidArgumentError, reasonOf } from '../shared/plugin/errors.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import { ClosedError, LockedError, LostError, withResource } from './errors.js'
import { HeldLockHandle, NOT_IN_STORE, type HeldLock, type LockHandle } from './held-lock.js'
import {
  resolveLockOptions, resolveOnceOptions,
  type LockOptions, type OnceOptions, type ResolvedLockOptions, type ResolvedLockPluginOptions
} from './options.js'
import type { LockStore } from './store.js'
import { MAX_LATE_ATTEMPTS, waitForLock } from './wait-for-lock.js'
import type { Waiters } from './waiters.js'

/** A function that runs under a lock. Its signal aborts when the lock is lost or the app closes. */
export type Section<T> = (signal: AbortSignal, lock: HeldLock) => T | Promise<T>

/**
 * What a call of `once` did: it ran the job, the job was done before in this period, or another caller is running it.
 */
export type OnceOutcome = 'ran' | 'done' | 'running'

/** The record of a period outlives it by as much, so that an instance whose clock is behind finds it. */
const RECORDED_PERIODS = 2

interface LockerOptions extends Omit<ResolvedLockPluginOptions, 'timeout'> {
  timeout: Milliseconds
  store: LockStore
  waiters: Waiters
  log: FastifyBaseLogger
}

/** Acquires, extends and releases locks on any store. */
export class Locker {
  readonly #options: LockerOptions
  readonly #handles = new Set<HeldLockHandle>()
  readonly #sections = new Map<HeldLockHandle, Promise<unknown>>()
  #state: 'open' | 'closing' | 'closed' = 'open'

  constructor (options: LockerOptions) {
    this.#options = options
  }

  /**
   * Runs `fn` while this caller has the lock of a resource, or of several, and extends the lock while `fn` runs.
   *
   * @param fn - gets a signal that aborts when the lock is lost, and the lock with its fencing token
   * @returns the result of `fn`
   * @throws the error of `fn`, or the reason of the option `signal`
   * @throws `FST_REDIS_SUITE_LOCK_LOCKED` (423) if the lock was not free within `wait`
   * @throws `FST_REDIS_SUITE_LOCK_LOST` (503) if the lock was lost before `fn` ended
   * @throws `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE` (503), `_CLOSED` (503), `_INVALID_OPTION` (500)
   *
   * @example
   * const invoice = await app.locks.using(`invoice:${id}`, { wait: '2s' }, async (signal, { token }) => {
   *   const pdf = await render(id, { signal })
   *   return await save(pdf, token)
   * })
   */
  using<T> (resource: string | readonly string[], fn: Section<T>): Promise<T>
  using<T> (resource: string | readonly string[], options: LockOptions, fn: Section<T>): Promise<T>
  async using<T> (resource: string | readonly string[], ...rest: [Section<T>] | [LockOptions, Section<T>]): Promise<T> {
    const [options, fn] = rest.length === 1 ? [undefined, rest[0]] : rest
    if (typeof fn !== 'function') throw invalidArgumentError('lock', 'fn', fn, 'a function')
    return await this.#runUnder(await this.#acquire(resource, options, true), fn)
  }

  /**
   * Runs a job once in each period across all instances, and never twice at a time. Call it on every instance, more
   * often than the job is due: after a failure or a crash, the next call runs the job.
   *
   * @param fn - gets the same arguments as in `using`
   * @returns `'ran'` if this call ran the job; `'done'` if it had run in this period; `'running'` if another caller
   *   runs it
   * @throws the error of `fn`: the job then counts as not done
   * @throws `FST_REDIS_SUITE_LOCK_LOST` (503), `_STORE_UNAVAILABLE` (503): the job may have run in part, and may run
   *   again
   * @throws `FST_REDIS_SUITE_LOCK_CLOSED` (503), `_INVALID_OPTION` (500)
   *
   * @example
   * const outcome = await app.locks.once('report', { every: '1 hour' }, async signal => await writeReport({ signal }))
   */
  async once (resource: string, options: OnceOptions, fn: Section<unknown>): Promise<OnceOutcome> {
    if (typeof fn !== 'function') throw invalidArgumentError('lock', 'fn', fn, 'a function')
    const [name = ''] = checkResources([resource])
    const { every, tick: given, ...lockOptions } = resolveOnceOptions(options, this.#options)
    const { store, clock } = this.#options
    const tick = String(given ?? Math.floor(clock.now() / every))
    if (await store.isDone(name, tick)) return 'done'
    let handle: HeldLockHandle
    try {
      handle = await this.#acquire(name, lockOptions, true)
    } catch (error) {
      if (error instanceof LockedError && lockOptions.signal?.aborted !== true) return 'running'
      throw error
    }
    return await this.#runUnder(handle, async (signal, held): Promise<OnceOutcome> => {
      // Another caller may have run it since the first look-up.
      if (await store.isDone(name, tick)) return 'done'
      await fn(signal, held)
      await this.#markDone(handle, tick, every * RECORDED_PERIODS)
      return 'ran'
    })
  }

  /** Records a job as done. While Redis is unavailable, tries again for as long as the lock lasts. */
  async #markDone (handle: HeldLockHandle, tick: string, ttl: Milliseconds): Promise<void> {
    const { clock, retryDelay } = this.#options
    for (;;) {
      try {
        return await handle.markDone(tick, ttl)
      } catch (error) {
        if (!handle.isHeld) throw handle.lost ?? error
        await sleep(clock, retryDelay, { ref: false })
      }
    }
  }

  async #runUnder<T> (handle: HeldLockHandle, fn: Section<T>): Promise<T> {
    const result = (async () => await fn(handle.signal, handle))()
    this.#sections.set(handle, result)
    try {
      await result
      await handle.throwIfOver()
    } catch (error) {
      await handle.release().catch(() => {})
      throw error
    } finally {
      this.#sections.delete(handle)
    }
    // The lock was certain when the section ended: a missing reply changes nothing, but a missing lock does.
    const wasHeld = await handle.release().catch(() => true)
    if (!wasHeld) throw withResource(new LostError(NOT_IN_STORE), handle.resources.join(', '))
    return await result
  }

  /**
   * Acquires a lock as `using` does, for work that is not one function. The lock expires by its `ttl`
   * unless the option `extend` is set.
   *
   * @throws the errors of `using`
   *
   * @example
   * await using lock = await app.locks.acquire('import', { ttl: '1m' })
   * await importAll(lock.signal)
   */
  async acquire (resource: string | readonly string[], options?: LockOptions): Promise<LockHandle> {
    return await this.#acquire(resource, options, false)
  }

  /** @throws `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE` */
  async isLocked (resource: string): Promise<boolean> {
    const [name = ''] = checkResources([resource])
    return await this.#options.store.isLocked(name)
  }

  /** Ends the waits of all callers. */
  stopWaiting (): void {
    this.#state = 'closing'
    this.#options.waiters.notifyAll()
  }

  /** Waits for sections, at most until their locks expire, and releases all locks. */
  async close (): Promise<void> {
    const { clock, store, waiters } = this.#options
    this.#state = 'closed'
    waiters.notifyAll()
    await Promise.all(Array.from(this.#handles, async handle => {
      const section = this.#sections.get(handle)
      handle.stop(new ClosedError())
      if (section !== undefined) {
        await Promise.race(
          [section.catch(() => {}), sleep(clock, Math.max(0, handle.expiresAt - clock.now()), { ref: false })]
        )
      }
      await handle.release().catch(() => {})
    }))
    store.close()
  }

  async #acquire (resource: unknown, given: LockOptions | undefined, extend: boolean): Promise<HeldLockHandle> {
    const resources = checkResources(resource)
    const options = resolveLockOptions(given ?? {}, this.#options)
    const { clock } = this.#options
    const deadline = clock.monotonic() + options.wait
    for (let attempt = 1; ; attempt++) {
      const handle = this.#createHandle(resources, options, extend)
      try {
        await this.#lockAll(handle, options, deadline)
        return handle
      } catch (error) {
        const released = handle.release().catch(() => {})
        // A lock was lost while others were waited for. No section has run under it, so all of them are acquired again.
        const isLost = handle.lost !== undefined && error === handle.lost
        if (!isLost || (attempt >= MAX_LATE_ATTEMPTS && clock.monotonic() >= deadline)) throw error
        await released
      }
    }
  }

  #createHandle (
    resources: readonly string[], { ttl, extend }: ResolvedLockOptions, isExtended: boolean
  ): HeldLockHandle {
    const { store, clock, clockDrift, log } = this.#options
    const handle = new HeldLockHandle({
      store,
      clock,
      clockDrift,
      resources,
      ttl,
      extend: extend ?? isExtended,
      onLost: error => {
        this.#handles.delete(handle)
        if (handle.isComplete) log.warn({ plugin: 'lock', resources, reason: reasonOf(error) }, 'lock: lost')
      },
      onReleased: () => this.#handles.delete(handle)
    })
    this.#handles.add(handle)
    return handle
  }

  async #lockAll (handle: HeldLockHandle, options: ResolvedLockOptions, deadline: number): Promise<void> {
    // In one order for all callers, so that no two callers wait for each other.
    for (const resource of [...handle.resources].sort()) {
      if (this.#state === 'closed') throw new ClosedError()
      await waitForLock(
        resource, handle, { ...this.#options, ...options, deadline, isOpen: () => this.#state === 'open' }
      )
    }
    handle.complete()
  }
}

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
function checkResources (given: unknown): readonly string[] {
  const resources: unknown[] = Array.isArray(given) ? given : [given]
  const isValid = resources.length > 0 && new Set(resources).size === resources.length
  if (isValid && resources.every(name => typeof name === 'string' && name !== '')) return resources as string[]
  throw invalidArgumentError('lock', 'resource', given, 'a string that is not empty, or several, each once')
}
