/** One stored answer or value, with the versions that its tags had before it was made. */
export interface Entry {
  /** What it holds, opaque to the store. */
  body: Buffer
  /** What is kept beside it: JSON. */
  meta: Record<string, unknown>
  /** Milliseconds since the epoch, by the clock of the instance that stored it. */
  storedAt: number
  /** Milliseconds for which it is fresh, and for which it may be used stale after that. */
  ttl: number
  stale: number
  /** The version of each of its tags. */
  tags: Record<string, string>
}

/** Keeps entries by digests of their keys. Both stores pass the same tests. */
export interface CacheStore {
  /** An entry of which all tags still have the versions it was made with; a damaged one is none. */
  get (key: string): Promise<Entry | undefined>
  set (key: string, entry: Entry): Promise<void>
  delete (key: string): Promise<boolean>
  /**
   * The present versions of tags: text that begins with when the tag was invalidated last (ms since the epoch). An
   * entry that is made from now on carries them: if one changes meanwhile, it is born invalid.
   */
  versions (tags: readonly string[]): Promise<Record<string, string>>
  /** Makes all entries with one of these tags invalid, in time that does not depend on how many there are. */
  invalidate (tags: readonly string[]): Promise<void>
  /** Takes the right to refresh a key for `ms`; only one instance has it. */
  claimRefresh (key: string, ms: number): Promise<boolean>
}

/** A tag that every entry has, so that all can be made invalid at once. */
export const EVERYTHING = '*'
