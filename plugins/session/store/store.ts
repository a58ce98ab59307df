import type { Milliseconds } from '../../shared/plugin/units.js'
import { databaseChannel } from '../../shared/redis/client.js'
import type { RedisPort } from '../../shared/redis/port.js'

/** A stored session. */
export interface StoredSession {
  /** All its properties as a JSON object. */
  text: string
  /** Whether the properties are encrypted. */
  isSealed: boolean
  /** Changes with each write. */
  version: string
  /** The digest of its user's id. */
  user: string | undefined
  /** Milliseconds since the epoch. */
  createdAt: number
  lastSeenAt: number
}

/** The changes of one request to a session. They are by property, so that two requests can change different ones. */
export interface SessionChange {
  /** The JSON of each changed property. */
  set: Record<string, string>
  isSealed: boolean
  delete: readonly string[]
  /** Whether the session is new. A change to a session that has ended is dropped. */
  create: boolean
  /** The version that the request read. */
  from: string
  /** All properties after the change, if no other request has written since that version. */
  text: string
  /** The digest of its new user's id, `undefined` without a user. Left out if the user has not changed. */
  owner?: { user: string | undefined, device: string }
}

/** A stored session without its contents. */
export interface StoredInfo {
  handle: string
  /** The digest of its user's id. */
  user: string | undefined
  createdAt: number
  lastSeenAt: number
  device: string
}

/**
 * Stores sessions by their handles, which are digests of their ids, and an index of each user's. Both stores pass the
 * same tests.
 */
export interface SessionStore {
  /** Reads a session, within the deadline and the circuit. The caller applies them to the other methods. */
  read (handle: string): Promise<StoredSession | undefined>
  /**
   * Renews a session's idle time-out.
   *
   * @param user - the digest of its user's id. The index gets the session again: a full server may evict it before the
   * sessions
   */
  renew (handle: string, user?: string): Promise<void>
  /**
   * Merges a change into a session. A destroyed session stays destroyed.
   *
   * @returns the new version; undefined if there is no session to change
   */
  write (handle: string, change: SessionChange): Promise<string | undefined>
  /** Returns how long the session lives unless it is used; 0 if it has ended. */
  lifeOf (handle: string): Promise<Milliseconds>
  /**
   * Destroys a session, and returns the digest of its user's id: null without a user, undefined if there was no
   * session.
   */
  destroy (handle: string): Promise<string | null | undefined>

  /**
   * Adds a session to a user's index.
   *
   * @param user - the digest of the user's id
   * @param max - the most sessions of a user; 0: any number
   * @returns undefined if it was added, otherwise the present entries, the oldest first
   */
  enter (user: string, handle: string, max: number): Promise<readonly string[] | undefined>
  leave (user: string, handles: readonly string[]): Promise<void>
  /**
   * Returns the handles that were added up to a time (by the store's clock), the oldest first. Some sessions may have
   * ended.
   */
  members (user: string, until: number, from: number, count: number): Promise<readonly string[]>
  /** Returns undefined for each session that has ended. */
  infos (handles: readonly string[]): Promise<ReadonlyArray<StoredInfo | undefined>>
  /** Returns the time by the clock of a user's index, in milliseconds since the epoch. */
  now (user: string): Promise<number>
}

export interface SessionTimeouts {
  /** How long a session lives without a request, see {@link renewalOf}. */
  idleTimeout: Milliseconds
  /** How long a session lives after its creation at most. */
  absoluteTimeout: Milliseconds
}

// A write for each read would cost Redis, its replicas and its log more than the read.
const MAX_RENEWAL_MS = 60_000

/** Returns how often a session in use is renewed. A session may outlive its idle time-out by as much. */
export function renewalOf (idleTimeout: Milliseconds): Milliseconds {
  return Math.min(MAX_RENEWAL_MS, Math.ceil(idleTimeout / 20))
}

/** Returns the channel on which the handle of each destroyed session is published. */
export function endedChannel (client: RedisPort, prefix: string): string {
  return databaseChannel(client, `${prefix}:session:ended`)
}

/** How long the tombstone of a destroyed session stays, so that a request that still has it cannot store it again. */
export const TOMBSTONE_MS = 3_600_000
