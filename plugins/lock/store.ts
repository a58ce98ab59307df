/** What came of asking for a lock. */
export type AcquireResult =
  | { readonly isTaken: true, readonly fence: number }
  /** @property left - after how many milliseconds it may be free; 0: nobody has it, several asked for it at once */
  | { readonly isTaken: false, readonly left: number }

/**
 * Who holds what. An owner is a random name that is used for one lock. All durations are milliseconds.
 * Every method rejects with `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE` where the answer cannot be known.
 */
export interface LockStore {
  /** Whether those who wait stand in line; who was refused then asks again by the same name, else by a new one. */
  readonly hasQueue: boolean
  /**
   * Takes the lock if it is free, or was handed to this owner. Asked again by the one who has it, it stands for `ttl` from now.
   *
   * @param patience - above 0 the owner stands in line, for as long as it asks again within this time
   */
  take (resource: string, owner: string, ttl: number, patience: number): Promise<AcquireResult>
  /** @returns whether it was this owner's still */
  extend (resource: string, owner: string, ttl: number, fence: number): Promise<boolean>
  /**
   * Gives the lock to the next in line, and leaves the line.
   *
   * @returns whether it was this owner's still
   */
  release (resource: string, owner: string): Promise<boolean>
  isLocked (resource: string): Promise<boolean>
  /** What is called when this owner may take the lock. */
  callOf (resource: string, owner: string): string
  close (): void
}

/** How a store tells that a lock may be free: to one by his call, or, where calls may have been missed, to all. */
export interface ReleaseListener {
  call (name: string): void
  callAll (): void
}
