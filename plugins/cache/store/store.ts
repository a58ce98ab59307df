import type { Entry } from './entry.js'
import type { CasToken } from './entry-codec.js'
import type { StoreStats } from './redis-stats.js'

/** What a key and its tags were like at one moment. */
export interface KeyVersions {
  token: CasToken
  /** Of each tag that was asked for, its version; undefined where it has none yet. */
  versions: Readonly<Record<string, string | undefined>>
}

export interface ReadResult extends KeyVersions {
  /** Undefined where there is none, it is damaged, or one of its tags has been invalidated since it began to be made. */
  entry: Entry | undefined
}

export interface Put {
  id: string
  tags: readonly string[]
  /** @param versions - of its tags, and of `EVERYTHING` */
  make: (versions: Record<string, string>) => Entry
}

/** Of a key whose source is being written. */
export interface WriteLock {
  token: CasToken
  wasLocked: boolean
  /** For how many milliseconds what was there would have been kept. */
  left: number
}

export interface FillLease {
  /** Whose it is to make the entry: this caller's, another one's; `pass`: each makes his own, as it cannot be shared. */
  claim: 'mine' | 'theirs' | 'pass'
  /** The token of the claim that stands, where the store tells. */
  holder?: string | undefined
  /** By the store's clock: milliseconds since the epoch. */
  now: number
  /** Of all tags: what is stored with these is invalid once one of them changes. */
  versions: Record<string, string>
}

/** Keeps entries by digests of their keys, and publishes what it invalidates. Both stores pass the same tests. */
export interface CacheStore {
  /** By how many milliseconds the clocks may differ that the store takes its times from. */
  readonly skew: number
  /** Whether keys lie on several nodes, of which some may be away. */
  readonly isSpread: boolean
  /** Runs `work`, whose reads the store has not sent yet, once for all callers with one id; undefined where reading costs nothing. */
  readonly share?: <T> (id: string, work: () => Promise<T>) => Promise<T>
  /** Reads a key and the versions of tags as of one moment at or after the call. */
  read (id: string, tags: readonly string[]): Promise<ReadResult>
  /** Before an entry is made: claims the work, for `ms`, and gives each tag a version that has none. */
  acquireFill (work: string, token: string, tags: readonly string[], ms: number): Promise<FillLease>
  /** Keeps a claim for `ms` more. */
  renewFill (work: string, token: string, ms: number): Promise<void>
  /** Gives a claim back. @param pass - the others need not wait for one another */
  releaseFill (work: string, token: string, pass: boolean): Promise<void>
  /**
   * @param patterns - the version that `PATTERNS` had when it began to be made; undefined: whatever it was
   * @param hold - for how many milliseconds the key stands at least, so that what was begun before is refused
   * @param ttl - milliseconds until the entry expires, where it was stored before and has less left than `deleteAt - storedAt`
   * @returns false where the key has another token by now, or may have been removed by pattern: somebody stored or removed it meanwhile
   */
  write (id: string, entry: Entry, token: CasToken, patterns?: string, hold?: number, ttl?: number): Promise<boolean>
  /** Stores entries whatever is there, in one round trip where their tags have not been invalidated since they were seen last. */
  setMany (items: readonly Put[]): Promise<void>
  /**
   * Marks a key: until it is written, removed or unmarked, nothing is read of it, and what others make of it is not stored.
   *
   * It stands for `TOMBSTONE_MS`, also where nobody takes it away.
   */
  lockKey (id: string): Promise<WriteLock>
  /** Takes the mark away, where the key still has that token: what was there before is there again. */
  unlockKey (id: string, mark: WriteLock): Promise<void>
  /**
   * Removes an entry, and keeps what was begun before from being stored.
   *
   * @param label - to tell others by
   * @param token - an entry with another one stays; undefined: any is removed
   * @returns whether there was one
   */
  remove (id: string, label?: string, token?: CasToken): Promise<boolean>
  /** When tags were invalidated last (ms by the store's clock; 0: never), and their versions. */
  tags (tags: readonly string[]): Promise<Record<string, { version: string, invalidatedAt: number }>>
  /** Makes all entries with one of these tags invalid, in time that does not depend on how many there are. */
  invalidate (tags: readonly string[]): Promise<void>
  /** Removes the entries whose label passes. @returns how many there were */
  removeMatching (matches: (label: string) => boolean): Promise<number>
  /** By the store's clock: milliseconds since the epoch. */
  now (): Promise<number>
  stats (): Promise<StoreStats>
}

/** No entry is kept for longer. */
export const MAX_LIFE_MS = 30 * 24 * 3600 * 1000
/** What took longer to be made than a tombstone stands is not stored. */
export const TOMBSTONE_MS = 10 * 60 * 1000
/** For how long nobody waits for an answer that turned out not to be storable. */
export const HIT_FOR_PASS_MS = 1000

/** A tag that every entry has, so that all can be made invalid at once. No tag of a program's own begins with a NUL. */
export const ALL_TAG = '\0*'
/** A tag that is invalidated with each removal by pattern. */
export const PATTERN_TAG = '\0?'
