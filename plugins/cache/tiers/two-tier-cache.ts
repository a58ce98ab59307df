import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { traced } from '../../shared/plugin/tracing.js'
import { Attempts } from './attempts.js'
import { batchesOf, inBatches } from '../store/batches.js'
import type { InvalidationBus } from './invalidation-bus.js'
import { StatsByName, type CacheCounts, type StatsCounter } from '../stats.js'
import { isRecord, type Entry } from '../store/entry.js'
import { InvalidationPendingError } from '../errors.js'
import { tellInvalidated, type Events } from '../events.js'
import type { CacheKey } from '../store/cache-key.js'
import type { L1 } from './l1.js'
import { LostLeases, RETRY_MS } from './lost-leases.js'
import { PendingInvalidations, type InvalidationBatch } from './pending-invalidations.js'
import { StoreClock } from './store-clock.js'
import type { StoreStats } from '../store/redis-stats.js'
import { PATTERN_TAG, TOMBSTONE_MS, type FillLease, type CacheStore, type WriteLock, type Put, type KeyVersions } from '../store/store.js'

export interface CacheStats extends CacheCounts {
  invalidations: number
  /** Operations on the store that failed; the answer came without it. */
  storeErrors: number
  /** The same by name: a route's URL, a prefix, a wrapped function; `data` for values without one. */
  names: Record<string, CacheCounts>
}

/** What a look-up brought to light. */
export interface Lookup {
  key: CacheKey
  tags: readonly string[]
  entry: Entry | undefined
  /** Undefined where the store did not answer. */
  snapshot: KeyVersions | undefined
  /** Whether the store holds an entry, also one that this process may not use now. */
  isStored: boolean
  /** What L1 had heard before. */
  epoch: number
  /** What invalidations this process had not been able to write: what is made after one is not what was made before. */
  pendingInvalidations: number
}

export interface TwoTierCacheOptions {
  store: CacheStore
  /** Calls the store by the policy on failure. */
  run: RedisGuard['run']
  l1: L1 | undefined
  invalidationBus: InvalidationBus | undefined
  /** Whether the store is away or takes no writes, or did until just now: other instances may still have to write what they invalidated. */
  mayHavePendingInvalidations?: () => boolean
  /** Whether all of the store can be asked: what cannot be invalidated there is not told to the first tier. */
  isWhole?: () => boolean
  /** Whether L1 is used while it cannot be kept in step. */
  servesAlone: boolean
  events: Events
  log: FastifyBaseLogger
  clock: Clock
}

/** The tier that served a hit: the memory of this process, or the store. */
export type Tier = 'l1' | 'l2'

const EVENTS = { hits: 'hit', misses: 'miss', stale: 'stale', coalesced: 'coalesce' } as const

/** What both faces, responses and data, do with the two tiers: reading never fails, it only knows nothing. */
export class TwoTierCache {
  readonly #options: TwoTierCacheOptions
  readonly #attempts: Attempts
  readonly #ledger = new StatsByName()
  readonly #pendingInvalidations: PendingInvalidations
  readonly #lostLeases: LostLeases
  readonly #storeClock: StoreClock
  readonly events: Events
  /** This process's, for timers and durations. */
  readonly clock: Clock
  #invalidations = 0

  constructor (options: TwoTierCacheOptions) {
    const { run, store, log, events, clock } = options
    this.#options = options
    this.events = events
    this.clock = clock
    this.#attempts = new Attempts(run, events, log)
    this.#storeClock = new StoreClock(clock, () => this.#attempts.make(() => store.now()))
    this.#pendingInvalidations = new PendingInvalidations((debt, onPaid) => run(() => Promise.all(this.#partsOf(debt).map(async part => {
      await Promise.all([part.tags.length > 0 && store.invalidate(part.tags), ...part.ids.map(id => store.remove(id))])
      onPaid(part)
    }))), log, clock)
    this.#lostLeases = new LostLeases(({ work, token, pass }) => run(() => store.releaseFill(work, token, pass)), clock)
  }

  get stats (): CacheStats {
    return { ...this.#ledger.total, invalidations: this.#invalidations, storeErrors: this.#attempts.failed, names: this.#ledger.names }
  }

  countsOf (name: string): StatsCounter {
    return this.#ledger.of(name)
  }

  /** Counts and tells what happened to a key. */
  count (key: CacheKey | undefined, what: keyof typeof EVENTS, tier: Tier = 'l2'): void {
    if (key === undefined) return
    const { counts, label } = key
    counts[what]++
    if (what === 'hits' && tier === 'l1') counts.l1Hits++
    const event = EVENTS[what]
    if (this.events.hears(event)) this.events.emit(event, event === 'hit' ? { key: label, tier } : { key: label })
  }

  /** What the first tier has heard so far. */
  get epoch (): number {
    return this.#options.l1?.mark ?? 0
  }

  /** By the store's clock: milliseconds since the epoch. */
  now (): number {
    return this.#storeClock.now()
  }

  /** What the first tier has, at once. */
  getL1 (key: CacheKey): Entry | undefined {
    const { l1, invalidationBus, servesAlone, mayHavePendingInvalidations, isWhole } = this.#options
    // What is published may be heard on a connection that stands while others cannot publish.
    const isUsable = servesAlone || (invalidationBus?.isCurrent === true && isWhole?.() !== false && mayHavePendingInvalidations?.() !== true)
    if (l1 === undefined || !isUsable) return undefined
    return this.#unlessInvalidated(key, l1.get(key, this.now()))
  }

  /** Looks a key up in the store. */
  lookup (key: CacheKey, tags: readonly string[]): Promise<Lookup> {
    const { share } = this.#options.store
    const find = () => this.#lookup(key, tags)
    // Callers that look the same up in one turn of the event loop share one read.
    const look = () => share === undefined ? find() : share(nameOf(key, tags), find)
    return traced('cache lookup', look, lookup => ({ 'cache.result': this.#resultOf(lookup) }))
  }

  async #lookup (key: CacheKey, tags: readonly string[]): Promise<Lookup> {
    const { store, l1 } = this.#options
    const { epoch } = this
    const owed = this.#pendingInvalidations.count
    const read = this.#attempts.make(() => store.read(key.id, tags))
    const [found] = this.#storeClock.isSet ? [await read] : await Promise.all([read, this.#storeClock.set()])
    if (found === undefined) return { key, tags, entry: undefined, snapshot: undefined, isStored: false, epoch, pendingInvalidations: owed }
    const { entry } = found
    const isFresh = entry !== undefined && this.now() < entry.deleteAt
    const usable = isFresh && this.#options.mayHavePendingInvalidations?.() !== true ? this.#unlessInvalidated(key, entry) : undefined
    if (usable !== undefined) l1?.set(key, usable, epoch)
    return { key, tags, entry: usable, snapshot: found, isStored: entry !== undefined, epoch, pendingInvalidations: owed }
  }

  /** @param tags - those that have no version yet */
  async acquireFill (work: string, token: string, tags: readonly string[], ms: number): Promise<FillLease | undefined> {
    let isAsked = false
    const begun = await this.#attempts.make(() => {
      isAsked = true
      return this.#options.store.acquireFill(work, token, tags, ms)
    })
    // It may have been claimed all the same.
    if (begun === undefined && isAsked && ms > RETRY_MS) this.#lostLeases.add({ work, token, pass: false })
    return begun
  }

  renewFill (work: string, token: string, ms: number): void {
    this.#attempts.inBackground(this.#attempts.make(() => this.#options.store.renewFill(work, token, ms)))
  }

  end (work: string, token: string, pass: boolean): void {
    const ended = this.#attempts.make(async () => {
      await this.#options.store.releaseFill(work, token, pass)
      return true
    })
    this.#attempts.inBackground(ended.then(isEnded => { if (isEnded === undefined) this.#lostLeases.add({ work, token, pass }) }))
  }

  /**
   * Stores what was made after a look-up, unless it has been invalidated since.
   *
   * @param hold - for how many milliseconds the key is kept at least, so that what was begun before is refused
   * @returns whether it was stored
   */
  async write (lookup: Pick<Lookup, 'key' | 'snapshot' | 'epoch'>, entry: Entry, versions: Readonly<Record<string, string>>, hold?: number): Promise<boolean> {
    const { store, l1 } = this.#options
    const { key, snapshot, epoch } = lookup
    // A tombstone that stood meanwhile may be gone.
    if (snapshot === undefined || this.now() - entry.storedAt > TOMBSTONE_MS) return false
    const written = this.#attempts.make(() => store.write(key.id, entry, snapshot.token, versions[PATTERN_TAG], hold))
    this.#attempts.inBackground(written)
    if (await written !== true) return false
    if (entry.kind !== 'variants') this.#countStored(key, entry)
    l1?.set(key, entry, epoch)
    return true
  }

  /** The version of removals by pattern, for {@link amend}; undefined where the store does not answer. */
  async patternsVersion (): Promise<string | undefined> {
    const found = await this.#attempts.make(() => this.#options.store.tags([PATTERN_TAG]))
    return found?.[PATTERN_TAG]?.version
  }

  /**
   * Adds to an entry that a look-up has just found, unless it has been changed or removed since.
   *
   * @param entry - the same one, with more
   * @param patterns - the version of removals by pattern from before the look-up
   */
  async amend ({ key, snapshot, epoch }: Lookup, entry: Entry, patterns: string): Promise<void> {
    const { store, l1 } = this.#options
    const left = entry.deleteAt - this.now()
    if (snapshot === undefined || left <= 0) return
    const written = this.#attempts.make(() => store.write(key.id, entry, snapshot.token, patterns, 0, left))
    this.#attempts.inBackground(written)
    if (await written === true) l1?.set(key, entry, epoch)
  }

  /**
   * Stores values whatever is there.
   *
   * @throws where it could not be done: what was there may still be there
   */
  async setMany (items: ReadonlyArray<Put & { key: CacheKey, bytes: number }>): Promise<void> {
    await inBatches(batchesOf(items, ({ bytes }) => bytes), batch => this.#setMany(batch))
  }

  async #setMany (items: ReadonlyArray<Put & { key: CacheKey }>): Promise<void> {
    const { run, store, l1 } = this.#options
    const { epoch } = this
    const made = new Map<CacheKey, Entry>()
    const remembering = items.map(({ key, make, ...rest }) => ({
      ...rest,
      make (versions: Record<string, string>) {
        const entry = make(versions)
        made.set(key, entry)
        return entry
      }
    }))
    await run(() => store.setMany(remembering))
    for (const [key, entry] of made) {
      this.#countStored(key, entry)
      l1?.set(key, entry, epoch)
    }
  }

  /** Marks a key while its source is written. @returns undefined where that could not be done */
  async lockKey ({ id }: CacheKey): Promise<WriteLock | undefined> {
    const { store, l1 } = this.#options
    const marked = await this.#attempts.make(() => store.lockKey(id))
    l1?.remove([id])
    return marked
  }

  /** What was there before a mark is right again. */
  async unlockKey ({ id }: CacheKey, mark: WriteLock): Promise<void> {
    await this.#attempts.make(() => this.#options.store.unlockKey(id, mark))
  }

  /** Its versions, where none of these tags has been invalidated since. */
  async versionsSince (tags: readonly string[], since: number): Promise<Record<string, string> | undefined> {
    const { store } = this.#options
    const found = await this.#attempts.make(() => store.tags(tags))
    if (found === undefined || Object.values(found).some(({ invalidatedAt }) => !(invalidatedAt < since - store.skew))) return undefined
    return Object.fromEntries(Object.entries(found).map(([tag, { version }]) => [tag, version]))
  }

  /** @throws `FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING`: it will be done, and in this process it is gone at once */
  async remove (keys: readonly CacheKey[]): Promise<boolean[]> {
    const { store } = this.#options
    const batches = batchesOf(keys, ({ label }) => label.length)
    const removed = await this.#withRetryOnFailure(batches, batch => ({ ids: batch.map(key => key.id), tags: [] }), batch => Promise.all(batch.map(({ id, label }) => store.remove(id, label))))
    for (const { label } of keys) this.events.emit('invalidate', { key: label, origin: 'local' })
    return removed.flat()
  }

  /** Removes in the background what a look-up found, as its source has replaced it by what is not stored. What was stored since then stays. */
  withdraw ({ key, snapshot, isStored }: Pick<Lookup, 'key' | 'snapshot' | 'isStored'>): void {
    const { l1, store } = this.#options
    const { id, label } = key
    // The store may have evicted what first tiers still have.
    const isKept = l1?.has(id) === true
    if (isStored || isKept) l1?.remove([id])
    if (snapshot === undefined || !(isStored || isKept)) return
    const removed = this.#attempts.make(() => store.remove(id, label, snapshot.token))
    this.#attempts.inBackground(removed.then(wasRemoved => {
      if (wasRemoved === undefined) this.#pendingInvalidations.add({ ids: [id], tags: [] })
      else if (wasRemoved) this.#countWithdrawn(label)
    }))
  }

  /** Removes what there is no room for, some time. */
  evict (ids: readonly string[]): void {
    for (const id of ids) this.#attempts.inBackground(this.#attempts.make(() => this.#options.store.remove(id)))
  }

  /** @throws `FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING`: it will be done, and in this process it is gone at once */
  async invalidate (tags: readonly string[]): Promise<void> {
    await this.#withRetryOnFailure(batchesOf(tags, tag => tag.length), batch => ({ ids: [], tags: batch }), batch => this.#options.store.invalidate(batch))
    tellInvalidated(this.events, tags, 'local')
  }

  /**
   * Removes what has such a label, with what is being made now.
   *
   * @throws where it could not be done
   * @returns how many there were
   */
  async removeMatching (pattern: string, matches: (label: string) => boolean): Promise<number> {
    const { run, store } = this.#options
    await run(() => store.invalidate([PATTERN_TAG]))
    // It takes as long as there are entries, so no deadline.
    const count = await store.removeMatching(matches)
    // Once more, for what a first tier read meanwhile.
    await this.#withRetryOnFailure([[PATTERN_TAG]], tags => ({ ids: [], tags }), tags => store.invalidate(tags))
    this.events.emit('invalidate', { pattern, origin: 'local' })
    return count
  }

  /** @throws where the store does not answer */
  async storeStats (): Promise<StoreStats> {
    const { run, store } = this.#options
    return await run(() => store.stats())
  }

  /** Waits for what is being written. */
  async settle (): Promise<void> {
    await this.#attempts.settle()
    this.#lostLeases.close()
    await this.#pendingInvalidations.close()
  }

  /**
   * Invalidates batch by batch, each with its own deadline. The first one that fails, and all after it, are owed: they would fail as well, and
   * each after its deadline.
   */
  async #withRetryOnFailure<T, R> (batches: readonly T[][], debtOf: (batch: T[]) => InvalidationBatch, operation: (batch: T[]) => Promise<R>): Promise<R[]> {
    const { run } = this.#options
    let done = 0
    this.#invalidations++
    try {
      return await inBatches(batches, async batch => {
        const result = await run(() => operation(batch))
        this.#forget(debtOf(batch))
        done++
        return result
      })
    } catch (error) {
      for (const debt of batches.slice(done).map(debtOf)) {
        this.#pendingInvalidations.add(debt)
        this.#forget(debt)
      }
      throw new InvalidationPendingError(reasonOf(error))
    }
  }

  /** Splits a debt into the parts that the store writes in one step each. */
  #partsOf ({ ids, tags }: InvalidationBatch): InvalidationBatch[] {
    const groups = this.#options.store.isSpread ? tags.map(tag => [tag]) : tags.length > 0 ? [tags] : []
    return [...groups.map(tags => ({ tags, ids: [] })), ...ids.map(id => ({ tags: [], ids: [id] }))]
  }

  #forget ({ ids, tags }: InvalidationBatch): void {
    const { l1 } = this.#options
    if (ids.length > 0) l1?.remove(ids)
    if (tags.length > 0) l1?.invalidate(tags)
  }

  #unlessInvalidated (key: CacheKey, entry: Entry | undefined): Entry | undefined {
    return this.#pendingInvalidations.isEmpty || !this.#pendingInvalidations.isInvalidated(key.id, entry) ? entry : undefined
  }

  /** For traces. */
  #resultOf ({ entry, snapshot }: Lookup): string {
    if (snapshot === undefined) return 'unanswered'
    if (entry === undefined) return 'miss'
    return this.now() < staleAtOf(entry) ? 'hit' : 'stale'
  }

  #countWithdrawn (key: string): void {
    this.#invalidations++
    this.events.emit('invalidate', { key, origin: 'local' })
  }

  #countStored ({ counts, label }: CacheKey, entry: Entry): void {
    const bytes = entry.body.length
    counts.stored++
    counts.storedBytes += bytes
    if (this.events.hears('store')) this.events.emit('store', { key: label, bytes })
  }
}

/** Only the same key with the same tags has such a name. */
function nameOf ({ text }: CacheKey, tags: readonly string[]): string {
  return `${tags.length} ${text.length} ${text}${tags.length === 1 ? tags[0] : JSON.stringify(tags)}`
}

/** A list of variants is never stale. */
function staleAtOf ({ meta, storedAt }: Entry): number {
  if (!isRecord(meta)) return Infinity
  return Number(meta['staleAt'] ?? (meta['fresh'] === undefined ? Infinity : storedAt + Number(meta['fresh'])))
}
