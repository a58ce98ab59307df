/** A stored session: each of its properties by itself, so that two requests can change different ones. */
export interface StoredSession {
  /** By property, as it was written. */
  fields: Record<string, string>
  /** Digest of whose it is. */
  user: string | undefined
  /** Milliseconds since the epoch. */
  createdAt: number
  lastSeenAt: number
}

/** What a request did to a session. */
export interface SessionChange {
  set: Record<string, string>
  delete: readonly string[]
  /** Whether the session is new; a change to one that is not there any more is dropped. */
  create: boolean
  /** Whose it is from now on, as a digest, `undefined` for nobody's; left out where that has not changed. */
  owner?: { user: string | undefined, device: string }
}

/** What may be known of a session without its contents. */
export interface StoredInfo {
  handle: string
  /** Digest of whose it is. */
  user: string | undefined
  createdAt: number
  lastSeenAt: number
  /** As it was written. */
  device: string
}

/** Keeps sessions under handles, which are digests of their ids, and an index of them by user. Both stores pass the same tests. */
export interface SessionStore {
  /** Reads a session and renews its idle time-out. */
  read (handle: string): Promise<StoredSession | undefined>
  /**
   * Merges a change into a session. What was destroyed stays so, whoever saves it later.
   *
   * @returns whether there was a session to change
   */
  write (handle: string, change: SessionChange): Promise<boolean>
  /** @returns whose it was; null where that was nobody's, undefined where there was none */
  destroy (handle: string): Promise<string | null | undefined>

  /**
   * Enters a session into the index of a user, whose digest this is.
   *
   * @param max - of how many at most; 0: of any number
   * @returns undefined if it is in it now; else those that are, the oldest first
   */
  enter (user: string, handle: string, max: number): Promise<readonly string[] | undefined>
  leave (user: string, handles: readonly string[]): Promise<void>
  /** Those that were entered up to a time (by the store's clock, ms), the oldest first, from a place on. Some may be gone. */
  members (user: string, until: number, from: number, count: number): Promise<readonly string[]>
  /** Of each, undefined where it is gone. */
  infos (handles: readonly string[]): Promise<ReadonlyArray<StoredInfo | undefined>>
  /** By the store's clock: milliseconds since the epoch. */
  now (): Promise<number>
}

export interface SessionTimeouts {
  /** Milliseconds without a request after which a session ends. */
  idleTimeout: number
  /** Milliseconds after its creation when it ends in any case. */
  absoluteTimeout: number
}

/** For how long a destroyed session is remembered, so that a request that still holds it cannot bring it back. */
export const TOMBSTONE_MS = 3_600_000
