import { databaseChannel, type RedisClient } from '../../shared/redis/client.js'

/** A stored session. */
export interface StoredSession {
  /** All its properties, each as it was written: a JSON object. */
  text: string
  /** Whether they are sealed. */
  isSealed: boolean
  /** Another one after each change. */
  version: string
  /** Digest of whose it is. */
  user: string | undefined
  /** Milliseconds since the epoch. */
  createdAt: number
  lastSeenAt: number
}

/** What a request did to a session: property by property, so that two requests can change different ones. */
export interface SessionChange {
  /** JSON by property. */
  set: Record<string, string>
  isSealed: boolean
  delete: readonly string[]
  /** Whether the session is new; a change to one that is not there any more is dropped. */
  create: boolean
  /** What it is then, if nobody else changed it since this version. */
  from: string
  text: string
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
  /** Reads a session, by the policy on failure. */
  read (handle: string): Promise<StoredSession | undefined>
  /**
   * Renews its idle time-out.
   *
   * @param user - digest of whose it is: it is entered into the index again, which a full server may evict before the sessions it names
   */
  renew (handle: string, user?: string): Promise<void>
  /**
   * Merges a change into a session. What was destroyed stays so, whoever saves it later.
   *
   * @returns its version, or undefined where there was no session to change
   */
  write (handle: string, change: SessionChange): Promise<string | undefined>
  /** @returns the milliseconds until it ends unless it is used; 0 where it has ended */
  lifeOf (handle: string): Promise<number>
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
  /** By the clock that a user's sessions are entered by: milliseconds since the epoch. */
  now (user: string): Promise<number>
}

export interface SessionTimeouts {
  /** Milliseconds without a request after which a session ends; see {@link renewalOf}. */
  idleTimeout: number
  /** Milliseconds after its creation when it ends in any case. */
  absoluteTimeout: number
}

// A write for each read would cost Redis, its replicas and its log more than the read.
const LONGEST_RENEWAL_MS = 60_000

/** A session that was renewed less than so many milliseconds ago is not renewed again. By as much it may outlive its idle time-out. */
export function renewalOf (idleTimeout: number): number {
  return Math.min(LONGEST_RENEWAL_MS, Math.ceil(idleTimeout / 20))
}

/** The channel on which the handle of each session that is destroyed is published. */
export function endedChannel (client: RedisClient, prefix: string): string {
  return databaseChannel(client, `${prefix}:session:ended`)
}

/** For how long a destroyed session is remembered, so that a request that still holds it cannot bring it back. */
export const TOMBSTONE_MS = 3_600_000
