import type { LockStore } from '../store.js'

/** The permits that a store of locks gives to one caller. */
interface PermitOptions {
  /** The permits of the semaphore. */
  permits: number
  /** The permits that the caller takes. */
  weight: number
}

/** Makes stores of locks that give several permits of one name. */
export interface SemaphoreStore {
  /** Returns a store whose locks are permits: they are acquired, extended and released as locks are. */
  locksOf (options: PermitOptions): LockStore
  /** Returns how many permits of a semaphore are taken. */
  used (name: string): Promise<number>
}

/** The methods that a store of permits lacks: no job runs once by them. */
export const WITHOUT_RECORDS: Pick<LockStore, 'markDone' | 'isDone'> = {
  markDone: async () => false,
  isDone: async () => false
}
