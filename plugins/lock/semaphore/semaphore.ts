import { invalidArgumentError } from '../../shared/plugin/errors.js'
import { integer, required } from '../../shared/plugin/option-kinds.js'
import { refuseOption, resolveOptions, type OptionTable } from '../../shared/plugin/option-table.js'
import type { LockHandle } from '../held-lock.js'
import type { Locker, Section } from '../locker.js'
import { LOCK_OPTIONS, type LockOptions, type ResolvedLockOptions } from '../options.js'
import type { SemaphoreStore } from './store.js'

/** How permits of a semaphore are acquired. An option that is left out has the value of the semaphore's options. */
export interface PermitRequest extends LockOptions {
  /** How many permits the caller takes. @default 1 */
  weight?: number | undefined
}

/** Options of a semaphore. One that is left out has the value of the plugin's options. */
export interface SemaphoreOptions extends Omit<LockOptions, 'signal'> {
  /** How many permits there are, for all instances together. */
  permits: number
}

const MAX_PERMITS = 100_000
const { signal: _, ...SHARED_OPTIONS } = LOCK_OPTIONS

export const SEMAPHORE_OPTIONS = {
  permits: required(integer(undefined, { min: 1, max: MAX_PERMITS })),
  ...SHARED_OPTIONS
} satisfies OptionTable<SemaphoreOptions>

export const PERMIT_OPTIONS = {
  weight: integer(1, { min: 1, max: MAX_PERMITS }), ...LOCK_OPTIONS
} satisfies OptionTable<PermitRequest>

/**
 * Lets a number of callers work at once, on all instances together. Callers come in the order in which they asked.
 */
export interface Semaphore {
  /**
   * Runs `fn` while this caller has permits, and extends them while `fn` runs.
   *
   * @param fn - gets a signal that aborts when the permits are lost
   * @returns the result of `fn`
   * @throws the errors of `locks.using`
   *
   * @example
   * const exports = app.locks.semaphore('exports', { permits: 3 })
   * const file = await exports.using({ wait: '1m' }, async signal => await writeExport({ signal }))
   */
  using<T> (fn: Section<T>): Promise<T>
  using<T> (options: PermitRequest, fn: Section<T>): Promise<T>
  /** Acquires permits as `locks.acquire` acquires a lock. @throws the errors of `locks.using` */
  acquire (options?: PermitRequest): Promise<LockHandle>
  /** Returns how many permits are free now. @throws `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE` */
  available (): Promise<number>
}

interface SemaphoresOptions {
  store: SemaphoreStore
  defaults: ResolvedLockOptions
  /** Creates what acquires, extends and releases the locks of a store, until the app closes. */
  createLocker: (store: ReturnType<SemaphoreStore['locksOf']>) => Locker
}

/** Makes semaphores, and what acquires their permits. */
export function createSemaphores ({ store, defaults, createLocker }: SemaphoresOptions) {
  /** By permits and weight. */
  const lockers = new Map<string, Locker>()

  function lockerOf (permits: number, weight: number): Locker {
    const name = `${permits}/${weight}`
    const locker = lockers.get(name) ?? createLocker(store.locksOf({ permits, weight }))
    lockers.set(name, locker)
    return locker
  }

  /** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
  function semaphore (name: string, given: SemaphoreOptions): Semaphore {
    if (typeof name !== 'string' || name === '') {
      throw invalidArgumentError('lock', 'name', name, 'a string that is not empty')
    }
    const { permits, ...own } = resolveOptions('lock', SEMAPHORE_OPTIONS, given, { ...defaults })
    const resolve = (request: PermitRequest): { locker: Locker, options: LockOptions } => {
      const { weight, ...options } = resolveOptions('lock', PERMIT_OPTIONS, request, { ...own })
      if (weight > permits) refuseOption('lock', request, 'weight', `a whole number from 1 to ${permits}, the permits`)
      return { locker: lockerOf(permits, weight), options }
    }
    return {
      async using<T> (...rest: [Section<T>] | [PermitRequest, Section<T>]): Promise<T> {
        const [request, fn] = rest.length === 1 ? [{}, rest[0]] : rest
        const { locker, options } = resolve(request)
        return await locker.using(name, options, fn)
      },
      async acquire (request = {}) {
        const { locker, options } = resolve(request)
        return await locker.acquire(name, options)
      },
      available: async () => Math.max(0, permits - await store.used(name))
    }
  }

  return { semaphore, lockerOf }
}
