import type { Milliseconds } from '../shared/plugin/units.js'

/** The result of an attempt to acquire a lock. */
export type AcquireResult =
  | { readonly kind: 'acquired', readonly token: number }
  /** @property remaining - the time until the lock may be free; 0: several owners asked at once, and none has it */
  | { readonly kind: 'locked', readonly remaining: Milliseconds }

/**
 * Records which owner holds which resource. An owner is a random id that is used for one lock.
 * Every method rejects with `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE` if the result cannot be known.
 */
export interface LockStore {
  /** Whether waiters queue: a refused owner then asks again under the same id, otherwise under a new one. */
  readonly hasQueue: boolean
  /**
   * Acquires the lock if it is free, or was handed over to this owner. For the present owner the lock's `ttl` starts
   * again.
   *
   * @param queueTtl - how long a refused owner stays in the queue unless it asks again; 0: the owner does not queue
   */
  acquire (resource: string, owner: string, ttl: Milliseconds, queueTtl: Milliseconds): Promise<AcquireResult>
  /** @returns false if this owner does not have the lock any more */
  extend (resource: string, owner: string, ttl: Milliseconds, token: number): Promise<boolean>
  /**
   * Removes the owner from the queue, and hands its lock over to the next waiter.
   *
   * @returns false if this owner did not have the lock any more
   */
  release (resource: string, owner: string): Promise<boolean>
  isLocked (resource: string): Promise<boolean>
  /**
   * Records that the job of a resource has run in a period.
   *
   * @returns false if this owner does not have the lock any more; nothing is recorded
   */
  markDone (resource: string, owner: string, tick: string, ttl: Milliseconds): Promise<boolean>
  /** @returns whether the job of a resource has run in a period */
  isDone (resource: string, tick: string): Promise<boolean>
  /** Returns the name that is notified when this owner may acquire the lock. */
  notificationName (resource: string, owner: string): string
  close (): void
}

/** Hears from a store that locks may be free. */
export interface ReleaseListener {
  /** Wakes the waiters of a name, see {@link LockStore.notificationName}. */
  notify (name: string): void
  /** Wakes all waiters, as notifications may have been missed. */
  notifyAll (): void
}
