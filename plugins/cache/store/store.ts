import type { Bytes, Milliseconds } from '../../shared/plugin/units.js'
import type { Entry } from './entry.js'
import type { CasToken } from './entry-codec.js'

/** The token of a key and the versions of its tags, as of one moment. */
export interface KeyVersions {
  token: CasToken
  /** The version of each tag that was asked for; undefined for a tag without one. */
  versions: Readonly<Record<string, string | undefined>>
}

export interface ReadResult extends KeyVersions {
  /**
   * Undefined on a miss: no entry, a damaged or locked one, or one with a tag that was invalidated after its fill
   * began.
   */
  entry: Entry | undefined
  /** Set where the read acquired the lease of a fill, see {@link CacheStore.read}. */
  acquired?: FillStart | undefined
}

/** The lease of a fill that a read acquires. */
export interface LeaseRequest {
  readonly fillId: string
  /** Identifies the caller. */
  readonly token: string
  readonly ttl: Milliseconds
}

export interface Put {
  id: string
  tags: readonly string[]
  /** @param versions - the versions of the tags and of `ALL_TAG` */
  make: (versions: Record<string, string>) => Entry
}

export interface WriteOptions {
  /**
   * The version that `PATTERN_TAG` had when the fill began. The write is refused where it has another one.
   *
   * @default not compared
   */
  patternVersion?: string | undefined
  /** How long the key exists at least, so that fills that began before the write are refused. @default 0 */
  minTtl?: Milliseconds | undefined
  /** How long the entry is kept, where it was stored before and has less time left. @default `deleteAt - storedAt` */
  ttl?: Milliseconds | undefined
}

/** A lock on a key while the source of its entry is being written. */
export interface WriteLock {
  token: CasToken
  /** Whether another writer had locked the key. */
  wasLocked: boolean
  /** Unlocks the key: the entry from before the lock is readable again, unless the key has been changed. */
  unlock (): Promise<void>
}

/** An entry whose write is about to be queued. It expires after `STAGED_MS` unless it is confirmed. */
export interface StagedEntry {
  /**
   * Stores the entry of the queued write, in the order of the queue: unless the key has the entry of a later write, or
   * was removed or set by another caller since.
   *
   * @param position - the id of the write in its stream
   * @returns whether it was stored
   */
  confirm (entry: Entry, position: string): Promise<boolean>
  /**
   * Removes the staged entry, as its write was refused. The entry of an earlier queued write is put back.
   */
  undo (): Promise<void>
}

/**
 * The result of acquiring the lease of a fill.
 *
 * - `acquired`: the caller fills the entry
 * - `held`: another caller fills it; `holder` is that caller's token, where the store knows it
 * - `hit-for-pass`: the last fill was not shareable, so each caller makes its own response
 */
export type LeaseState = { kind: 'acquired' | 'hit-for-pass' } | { kind: 'held', holder?: string | undefined }

/**
 * The store's clock and the versions of tags. An entry stored with them is invalid once one of these tags is
 * invalidated.
 */
export interface FillStart {
  /** By the store's clock: milliseconds since the epoch. */
  now: number
  versions: Record<string, string>
}

export interface TagState extends FillStart {
  /** When one of the tags was invalidated last, by the store's clock: milliseconds since the epoch; 0: never. */
  invalidatedAt: number
}

/** A lease with the state of the store as of the same moment. */
export type AcquiredLease = LeaseState & FillStart & {
  /** The token of the entry; undefined where it could not be read. */
  entryToken: CasToken | undefined
}

export interface FinishedFill {
  isStored: boolean
  /** Whether the lease was given back. */
  isReleased: boolean
}

/** The right to fill one entry, which one caller at a time has across all instances. */
export interface FillLease {
  /** Identifies the caller. */
  readonly token: string
  /**
   * Acquires the lease for `ttl`, and creates a version for each tag without one. The leases of one turn of the event
   * loop have one deadline, which the store keeps itself.
   *
   * @param id - the entry whose token is read. @default none
   */
  acquire (tags: readonly string[], ttl: Milliseconds, id?: string): Promise<AcquiredLease>
  /** Keeps an acquired lease for another `ttl`. */
  renew (ttl: Milliseconds): Promise<void>
  /**
   * Stores the entry as {@link CacheStore.write} does, and gives the lease back at once; where the entry is not stored,
   * hit-for-pass starts. The fills of one turn of the event loop have one deadline, which the store keeps itself.
   *
   * @param patternVersion - see {@link WriteOptions.patternVersion}
   * @throws where the lease may still be held
   */
  finish (id: string, entry: Entry, token: CasToken, patternVersion: string): Promise<FinishedFill>
  /** Gives an acquired lease back. @param isShareable - false starts hit-for-pass */
  release (isShareable: boolean): Promise<void>
}

/**
 * The figures that a store reports about itself. Redis's figures are those of the whole server, or of all masters of a
 * Cluster.
 */
export interface StoreStats {
  kind: 'redis' | 'memory'
  /** Keys in the database, or entries in memory. */
  entries: number
  usedMemory: Bytes
  /** 0: no limit. */
  maxMemory: Bytes
  /** The eviction policy. */
  policy: string
  /** The share of reads that found their key; NaN before the first read. */
  hitRatio: number
  /** Keys that were evicted, and keys that expired, since the server started. */
  evicted: number
  expired: number
}

/**
 * Stores entries under digests of their keys, and publishes invalidations. Both stores pass the same contract tests.
 */
export interface CacheStore {
  /** By how much the clocks may differ that the store takes its times from. */
  readonly skew: Milliseconds
  /** Whether keys lie on several nodes, some of which may be unavailable. */
  readonly isSpread: boolean
  /**
   * Reads a key and the versions of tags, as of one moment at or after the call. The reads of one turn of the event
   * loop have one deadline, which the store keeps itself.
   *
   * @param lease - acquired where there is no entry, and no tag was ever invalidated. A store need not acquire it
   */
  read (id: string, tags: readonly string[], lease?: LeaseRequest): Promise<ReadResult>
  /** Returns the lease of a fill. Nothing is sent before `acquire`. */
  lease (fillId: string, token: string): FillLease
  /**
   * Stores an entry, unless the key has been changed since `token` was read.
   *
   * @returns whether it was stored; false where another caller stored or removed the key, or it may have been removed
   * by pattern
   */
  write (id: string, entry: Entry, token: CasToken, options?: WriteOptions): Promise<boolean>
  /**
   * Stores entries unconditionally, in one round trip where their tags have the versions that this process read last.
   */
  setMany (items: readonly Put[]): Promise<void>
  /**
   * Locks a key: until it is written, removed or unlocked, each read is a miss and writes of other callers are refused.
   *
   * A lock that is not released ends after `TOMBSTONE_MS`.
   */
  lockKey (id: string): Promise<WriteLock>
  /** Stores an entry unconditionally, whose write is about to be queued. It refuses the fills that began before. */
  stage (id: string, entry: Entry): Promise<StagedEntry>
  /**
   * Removes an entry whose source has been written, and leaves a tombstone, unless the entry is that of a write that is
   * about to be queued, or was queued at `position` or after it.
   *
   * @param label - reported to other instances
   * @returns whether there was an entry
   */
  settle (id: string, label: string, position: string): Promise<boolean>
  /**
   * Removes an entry, and leaves a tombstone that refuses the fills that began before.
   *
   * @param label - reported to other instances
   * @param token - only an entry with this token is removed. @default any
   * @returns whether there was an entry
   */
  remove (id: string, label?: string, token?: CasToken): Promise<boolean>
  /** Reads the store's clock and the state of tags, and creates a version for each tag without one. */
  tags (tags: readonly string[]): Promise<TagState>
  /** Invalidates all entries with one of the tags, in a time that does not depend on their number. */
  invalidate (tags: readonly string[]): Promise<void>
  /** Removes the entries whose label matches. @returns the number of removed entries */
  removeMatching (matches: (label: string) => boolean): Promise<number>
  stats (): Promise<StoreStats>
}

/** The longest time for which an entry is kept. */
export const MAX_LIFE_MS = 30 * 24 * 3600 * 1000
/** How long a tombstone stands. The result of a fill that took longer is not stored. */
export const TOMBSTONE_MS = 10 * 60 * 1000
/** How long a staged entry is kept that is not confirmed, as its process has ended. */
export const STAGED_MS = 10 * 1000
/** How long callers do not coalesce after a fill whose result was not shareable. */
export const HIT_FOR_PASS_MS = 1000

/** The beginning of the version of a tag that was never invalidated. */
export const FIRST_VERSION = '0-'
/** A tag of every entry, which invalidates all of them. No tag of a program begins with a NUL. */
export const ALL_TAG = '\0*'
/** A tag that each removal by pattern invalidates. */
export const PATTERN_TAG = '\0?'
