/** A stored session: each of its properties by itself, so that two requests can change different ones. */
export interface StoredSession {
  /** JSON by property. */
  fields: Record<string, string>
  /** Milliseconds since the epoch. */
  createdAt: number
  lastSeenAt: number
}

/** What a request did to a session. */
export interface SessionChange {
  set: Record<string, string>
  delete: string[]
  /** Whether the session is new; a change to one that is not there any more is dropped. */
  create: boolean
  /** Whose session it is from now on; undefined: nobody's. */
  user: string | undefined
}

/** What others may know of a session: never its id, which is as good as a password. */
export interface SessionInfo {
  handle: string
  createdAt: number
  lastSeenAt: number
}

/** Keeps sessions under handles, which are digests of their ids. Both stores pass the same tests. */
export interface SessionStore {
  /** Reads a session and renews its idle time-out. */
  read (handle: string): Promise<StoredSession | undefined>
  /**
   * Merges a change into a session. What was destroyed stays so, whoever saves it later.
   *
   * @returns whether there was a session to change
   */
  write (handle: string, change: SessionChange): Promise<boolean>
  destroy (handle: string): Promise<void>
  /** The live sessions of a user. */
  list (user: string): Promise<SessionInfo[]>
}

export interface SessionTimeouts {
  /** Milliseconds without a request after which a session ends. */
  idleTimeout: number
  /** Milliseconds after its creation when it ends in any case. */
  absoluteTimeout: number
}

/** For how long a destroyed session is remembered, so that a request that still holds it cannot bring it back. */
export const TOMBSTONE_MS = 3_600_000
