import type { FastifyBaseLogger } from 'fastify'
import type { Coherence } from './coherence.js'
import type { Entry } from './entry.js'
import type { CacheKey } from './key.js'
import type { L1 } from './l1.js'
import { PATTERNS, TOMBSTONE_MS, type Begun, type CacheStore, type Seen, type StoreClock } from './store.js'

export interface CacheStats {
  hits: number
  misses: number
  stale: number
  /** Requests that waited for another one of the same key. */
  coalesced: number
  stored: number
  invalidations: number
  /** Operations on the store that failed; the answer came without it. */
  errors: number
  /** Of the hits, those that the first tier answered, and what it holds. */
  l1Hits: number
  l1Entries: number
  l1Bytes: number
}

export type Counted = Exclude<keyof CacheStats, 'l1Entries' | 'l1Bytes'>

/** What a look-up brought to light. */
export interface Lookup {
  key: CacheKey
  tags: readonly string[]
  entry: Entry | undefined
  /** Undefined where the store did not answer. */
  seen: Seen | undefined
  /** What L1 had heard before. */
  mark: number
}

type Run = <T>(operation: () => Promise<T>) => Promise<T>

export interface CoreOptions {
  store: CacheStore & StoreClock
  /** Calls the store by the policy on failure. */
  run: Run
  l1: L1 | undefined
  coherence: Coherence | undefined
  /** Whether L1 is used while it cannot be kept in step. */
  servesAlone: boolean
  log: FastifyBaseLogger
}

// The store's clock is asked for again after this.
const CLOCK_MS = 60_000

/** What both faces, responses and data, do with the two tiers: reading never fails, it only knows nothing. */
export class CacheCore {
  readonly #options: CoreOptions
  readonly #writing = new Set<Promise<unknown>>()
  readonly counts: Record<Counted, number> = { hits: 0, misses: 0, stale: 0, coalesced: 0, stored: 0, invalidations: 0, errors: 0, l1Hits: 0 }
  #offset = 0
  #clockAt = -Infinity

  constructor (options: CoreOptions) {
    this.#options = options
  }

  get stats (): CacheStats {
    const { l1 } = this.#options
    return { ...this.counts, l1Entries: l1?.size ?? 0, l1Bytes: l1?.bytes ?? 0 }
  }

  /** What the first tier has heard so far. */
  get mark (): number {
    return this.#options.l1?.mark ?? 0
  }

  /** By the store's clock: milliseconds since the epoch. */
  now (): number {
    return Date.now() + this.#offset
  }

  /** What the first tier has, at once. */
  peek (key: CacheKey): Entry | undefined {
    const { l1, coherence, servesAlone } = this.#options
    if (l1 === undefined) return undefined
    return coherence?.isCurrent || servesAlone ? l1.get(key, this.now()) : undefined
  }

  /** What the second tier has. What is removed by pattern is seen as well: work that began before is not what comes after it. */
  async find (key: CacheKey, tags: readonly string[]): Promise<Lookup> {
    const { store, l1 } = this.#options
    const { mark } = this
    const read = this.attempt(() => store.read(key.id, [PATTERNS, ...tags]))
    const [found] = await Promise.all([read, performance.now() - this.#clockAt > CLOCK_MS ? this.#setClock() : undefined])
    if (found === undefined) return { key, tags, entry: undefined, seen: undefined, mark }
    const { entry, ...seen } = found
    const usable = entry !== undefined && this.now() < entry.storedAt + entry.life ? entry : undefined
    if (usable !== undefined) l1?.set(key, usable, mark)
    return { key, tags, entry: usable, seen, mark }
  }

  /** @param tags - those that have no version yet */
  async begin (work: string, token: string, tags: readonly string[], ms: number): Promise<Begun | undefined> {
    return await this.attempt(() => this.#options.store.begin(work, token, tags, ms))
  }

  renew (work: string, token: string, ms: number): void {
    this.#inBackground(this.attempt(() => this.#options.store.renew(work, token, ms)))
  }

  end (work: string, token: string, pass: boolean): void {
    this.#inBackground(this.attempt(() => this.#options.store.end(work, token, pass)))
  }

  /**
   * Stores what was made after a look-up, unless it has been invalidated since.
   *
   * @returns whether it was stored
   */
  async write (lookup: Pick<Lookup, 'key' | 'seen' | 'mark'>, entry: Entry, versions: Readonly<Record<string, string>>): Promise<boolean> {
    const { store, l1 } = this.#options
    const { key, seen, mark } = lookup
    // A tombstone that stood meanwhile may be gone.
    if (seen === undefined || this.now() - entry.storedAt > TOMBSTONE_MS) return false
    const written = this.attempt(() => store.write(key.id, entry, seen.generation))
    this.#inBackground(written)
    if (await written !== true) return false
    if (await this.#isRemovedByPattern(key, versions)) return false
    if (entry.kind !== 'variants') this.counts.stored++
    l1?.set(key, entry, mark)
    return true
  }

  /** Its versions, where none of these tags has been invalidated since. */
  async versionsSince (tags: readonly string[], since: number): Promise<Record<string, string> | undefined> {
    const { store } = this.#options
    const found = await this.attempt(() => store.tags(tags))
    if (found === undefined || Object.values(found).some(({ invalidatedAt }) => !(invalidatedAt < since - store.skew))) return undefined
    return Object.fromEntries(Object.entries(found).map(([tag, { version }]) => [tag, version]))
  }

  /** Has the other instances forget what they have of a key that was written anew. */
  async announce ({ id }: CacheKey): Promise<void> {
    await this.attempt(() => this.#options.store.announce(id))
  }

  /** @throws where it could not be done: what was to go is still there */
  async remove (keys: readonly CacheKey[]): Promise<boolean> {
    const { run, store, l1 } = this.#options
    const ids = keys.map(key => key.id)
    const removed = await run(() => Promise.all(ids.map(id => store.remove(id))))
    l1?.remove(ids)
    this.counts.invalidations++
    return removed.some(Boolean)
  }

  /** Removes what there is no room for, some time. */
  drop (ids: readonly string[]): void {
    for (const id of ids) this.#inBackground(this.attempt(() => this.#options.store.remove(id)))
  }

  /** @throws where it could not be done: what was to go is still there */
  async invalidate (tags: readonly string[]): Promise<void> {
    const { run, store, l1 } = this.#options
    await run(() => store.invalidate(tags))
    l1?.invalidate(tags)
    this.counts.invalidations++
  }

  /**
   * Removes what has such a label, with what is being made now.
   *
   * @returns how many there were
   */
  async removeMatching (matches: (label: string) => boolean): Promise<number> {
    const { run, store } = this.#options
    await run(() => store.invalidate([PATTERNS]))
    // It takes as long as there are entries, so no deadline.
    const count = await store.removeMatching(matches)
    // Once more, for what a first tier read meanwhile.
    await this.invalidate([PATTERNS])
    return count
  }

  async attempt<T> (operation: () => Promise<T>): Promise<T | undefined> {
    try {
      return await this.#options.run(operation)
    } catch (error) {
      this.counts.errors++
      this.#options.log.debug({ reason: error instanceof Error ? error.message : String(error) }, 'cache: the store did not answer')
      return undefined
    }
  }

  /** Waits for what is being written. */
  async settle (): Promise<void> {
    while (this.#writing.size > 0) await Promise.allSettled(this.#writing)
  }

  #inBackground (work: Promise<unknown>): void {
    this.#writing.add(work)
    work.finally(() => this.#writing.delete(work)).catch(() => {})
  }

  /** A removal by pattern may have passed this key before it was written. */
  async #isRemovedByPattern (key: CacheKey, versions: Readonly<Record<string, string>>): Promise<boolean> {
    const { store } = this.#options
    const now = await this.attempt(() => store.tags([PATTERNS]))
    if (now?.[PATTERNS]?.version === versions[PATTERNS]) return false
    await this.attempt(() => store.remove(key.id))
    return true
  }

  async #setClock (): Promise<void> {
    const { store } = this.#options
    this.#clockAt = performance.now()
    const before = Date.now()
    const now = await this.attempt(() => store.now())
    if (now === undefined) this.#clockAt = -Infinity
    else this.#offset = now - (before + Date.now()) / 2
  }
}
