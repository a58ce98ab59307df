import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { isTracing, traced } from '../../shared/plugin/tracing.js'
import type { Bytes, Milliseconds } from '../../shared/plugin/units.js'
import { CircuitOpenError, type RedisGuard } from '../../shared/redis/guard.js'
import { InvalidationPendingError } from '../errors.js'
import { emitInvalidated, type CacheEmitter } from '../events.js'
import { StatsByName, type CacheCounts } from '../stats.js'
import { batchesOf, inBatches } from '../store/batches.js'
import type { CacheKey } from '../store/cache-key.js'
import { isRecord, type Entry } from '../store/entry.js'
import {
  PATTERN_TAG, TOMBSTONE_MS, type CacheStore, type FillLease, type FillStart, type FinishedFill, type KeyVersions,
  type LeaseRequest, type Put, type ReadResult, type StagedEntry, type WriteLock, type WriteOptions
} from '../store/store.js'
import type { L1 } from './l1.js'
import { PendingInvalidations, RECOVERY_GRACE_MS, type InvalidationBatch } from './pending-invalidations.js'
import { StoreClock } from './store-clock.js'

export interface CacheStats extends CacheCounts {
  invalidations: number
  /** Operations on the store that failed. The response was made without it. */
  storeErrors: number
  /** The same counts by name: a route's URL, a prefix, a wrapped function; `data` for values without a name. */
  names: Record<string, CacheCounts>
}

/** The result of looking a key up in the store. */
export interface Lookup {
  key: CacheKey
  tags: readonly string[]
  entry: Entry | undefined
  /** Undefined where the store did not reply. */
  snapshot: KeyVersions | undefined
  /** Whether the store holds an entry, also one that this process must not use now. */
  isStored: boolean
  /** The epoch of L1 before the read. */
  epoch: number
  /**
   * How many invalidations had been pending before the lookup, so that a fill that began before one is never joined
   * after it.
   */
  pendingInvalidations: number
  /** The id of the fill that it leads to, once that is known. */
  fillId: string | undefined
  /** The lease that may have been acquired with the lookup, until a caller takes it. */
  lease: LeaseRequest | undefined
  /** Set where that lease was acquired. */
  acquired: FillStart | undefined
}

/** The memory of this process, and what keeps it coherent with the other instances. */
interface L1Options {
  entries: L1
  /** Whether all invalidations of other instances have been applied but for the latest ones. */
  isCurrentAt: (now: number) => boolean
  /** Whether L1 is used while it is not coherent. */
  servesIncoherent: boolean
}

interface TwoTierCacheOptions {
  store: CacheStore
  /** Runs `work`, whose reads have not been sent yet, once for all callers with one id. @default once a call */
  share?: (<T> (id: string, work: () => Promise<T>) => Promise<T>) | undefined
  /** Calls Redis; undefined for the memory store. */
  guard?: Pick<RedisGuard, 'run' | 'isWhole' | 'troubledAt'> | undefined
  l1?: L1Options | undefined
  events: CacheEmitter
  log: FastifyBaseLogger
  clock: Clock
}

/** How many of the latest lookups decide whether most are misses. */
const LATEST_LOOKUPS = 16

export const NOTHING_DONE: FinishedFill = { isStored: false, isReleased: false }

/** The tier that served a hit: the memory of this process, or the store. */
export type Tier = 'l1' | 'l2'

const EVENTS = { hits: 'hit', misses: 'miss', stale: 'stale', coalesced: 'coalesce' } as const

/**
 * Two-tier reads and writes, shared by the HTTP cache and the data cache. Reads never reject: a store error is a miss.
 */
export class TwoTierCache {
  readonly store: CacheStore
  readonly events: CacheEmitter
  /** The clock of this process, for timers and durations. */
  readonly clock: Clock
  readonly counters = new StatsByName()
  /** Runs an operation on the store by the policy on failure. */
  readonly run: RedisGuard['run']
  readonly #log: FastifyBaseLogger
  readonly #guard: TwoTierCacheOptions['guard']
  readonly #l1: L1 | undefined
  readonly #isCurrentAt: (now: number) => boolean
  readonly #servesIncoherent: boolean
  readonly #pending: PendingInvalidations
  readonly #storeClock: StoreClock
  readonly #share: TwoTierCacheOptions['share']
  readonly #background = new Set<Promise<unknown>>()
  #storeErrors = 0
  #invalidations = 0
  /** The share of the latest lookups that found no entry. */
  #missShare = 0

  constructor ({ store, share, guard, l1, events, log, clock }: TwoTierCacheOptions) {
    this.store = store
    this.events = events
    this.clock = clock
    this.run = guard === undefined ? operation => operation() : guard.run
    this.#log = log
    this.#guard = guard
    this.#l1 = l1?.entries
    this.#isCurrentAt = l1?.isCurrentAt ?? (() => false)
    this.#servesIncoherent = l1?.servesIncoherent ?? false
    this.#storeClock = new StoreClock(clock, async () => (await this.attempt(() => store.tags([])))?.now)
    this.#share = share
    this.#pending = new PendingInvalidations(
      (batch, onWritten) => this.run(() => this.#writePending(batch, onWritten)), log, clock)
  }

  /** Returns the time by the store's clock: milliseconds since the epoch. */
  now (): number {
    return this.clock.monotonic() + this.#storeClock.offset
  }

  get stats (): CacheStats {
    const { total, names } = this.counters
    return { ...total, invalidations: this.#invalidations, storeErrors: this.#storeErrors, names }
  }

  /** See {@link Lookup.pendingInvalidations}. */
  get pendingInvalidations (): number {
    return this.#pending.count
  }

  /** Whether most of the latest lookups in the store found no entry. */
  get mostlyMisses (): boolean {
    return this.#missShare > 0.5
  }

  /** The number of invalidations that L1 has applied. */
  get epoch (): number {
    return this.#l1?.epoch ?? 0
  }

  /** Counts an event of a key, and emits it. */
  count (key: CacheKey | undefined, what: keyof typeof EVENTS, tier: Tier = 'l2'): void {
    if (key === undefined) return
    const { counts, label } = key
    counts[what]++
    if (what === 'hits' && tier === 'l1') counts.l1Hits++
    const event = EVENTS[what]
    if (!this.events.hasListeners(event)) return
    this.events.emit(event, event === 'hit' ? { key: label, tier } : { key: label })
  }

  /** Runs an operation on the store. A failure is counted and emitted. @returns undefined where it failed */
  async attempt<T> (operation: () => Promise<T>): Promise<T | undefined> {
    try {
      return await this.run(operation)
    } catch (error) {
      this.#reportFailure(error)
      return undefined
    }
  }

  /**
   * Returns the result of an operation whose deadline the store keeps itself. A failure is counted and emitted.
   *
   * @returns undefined where it failed
   */
  resultOf<T> (operation: () => Promise<T>, onFailure?: (error: unknown) => void): Promise<T | undefined> {
    const fail = (error: unknown): undefined => {
      this.#reportFailure(error)
      onFailure?.(error)
    }
    try {
      return operation().catch(fail)
    } catch (error) {
      return Promise.resolve(fail(error))
    }
  }

  #reportFailure (error: unknown): void {
    this.#storeErrors++
    this.#log.debug({ plugin: 'cache', reason: reasonOf(error) }, 'cache: an operation on the store failed')
    if (error instanceof Error) this.events.emit('error', { error })
  }

  /** Makes {@link close} wait for work that no caller waits for. */
  inBackground (work: Promise<unknown>): void {
    this.#background.add(work)
    const end = (): void => { this.#background.delete(work) }
    work.then(end, end)
  }

  /** Looks a key up in L1, synchronously. */
  getL1 (key: CacheKey): Entry | undefined {
    const l1 = this.#l1
    if (l1 === undefined) return undefined
    const now = this.clock.monotonic()
    if (!this.#servesIncoherent) {
      if (!this.#isCurrentAt(now) || this.#mayMissInvalidations(now)) return undefined
      // The bus of a Cluster is connected to one node, while instances may be unable to write to another one.
      if (this.store.isSpread && this.#guard?.isWhole === false) return undefined
    }
    const entry = l1.get(key, now + this.#storeClock.offset)
    return this.#pending.isEmpty || !this.#pending.isInvalidated(key.id, entry) ? entry : undefined
  }

  /**
   * Looks a key up in the store.
   *
   * @param leaseFor - returns the lease to acquire with the lookup
   */
  lookup (key: CacheKey, tags: readonly string[], leaseFor?: () => LeaseRequest): Promise<Lookup> {
    if (!isTracing()) return this.#sharedLookup(key, tags, leaseFor)
    const look = () => this.#sharedLookup(key, tags, leaseFor)
    return traced('cache lookup', look, lookup => ({ 'cache.result': this.#outcomeOf(lookup) }))
  }

  /** Callers that look the same up in one turn of the event loop share one read. */
  #sharedLookup (key: CacheKey, tags: readonly string[], leaseFor?: () => LeaseRequest): Promise<Lookup> {
    const find = () => this.#lookup(key, tags, leaseFor?.())
    return this.#share === undefined ? find() : this.#share(nameOf(key, tags), find)
  }

  #lookup (key: CacheKey, tags: readonly string[], lease?: LeaseRequest): Promise<Lookup> {
    const unanswered: Lookup = {
      key,
      tags,
      entry: undefined,
      snapshot: undefined,
      isStored: false,
      epoch: this.epoch,
      pendingInvalidations: this.#pending.count,
      fillId: undefined,
      lease,
      acquired: undefined
    }
    const reading = this.store.read(key.id, tags, lease)
    const ready = this.#storeClock.isSet
      ? reading
      : Promise.all([reading, this.#storeClock.set()]).then(([found]) => found)
    // Without an async function, whose promises cost a hit half a microsecond each.
    return ready.then(
      found => this.#use(found, unanswered),
      (error: unknown) => {
        this.#reportFailure(error)
        // Nothing was sent.
        if (error instanceof CircuitOpenError) unanswered.lease = undefined
        return unanswered
      })
  }

  /** Completes a lookup by what was read. It has no entry where this process must not use it now. */
  #use (found: ReadResult, lookup: Lookup): Lookup {
    const { entry } = found
    this.#missShare += ((entry === undefined ? 1 : 0) - this.#missShare) / LATEST_LOOKUPS
    lookup.snapshot = found
    lookup.acquired = found.acquired
    lookup.isStored = entry !== undefined
    const isUsable = entry !== undefined && this.now() < entry.deleteAt &&
      !this.#mayMissInvalidations(this.clock.monotonic()) &&
      (this.#pending.isEmpty || !this.#pending.isInvalidated(lookup.key.id, entry))
    if (!isUsable) return lookup
    this.#l1?.set(lookup.key, entry, lookup.epoch)
    lookup.entry = entry
    return lookup
  }

  /**
   * Stores the entry of a fill, unless the key was invalidated after the lookup.
   *
   * @param minTtl - see {@link WriteOptions.minTtl}
   * @returns whether it was stored
   */
  async write (
    lookup: Pick<Lookup, 'key' | 'snapshot' | 'epoch'>, entry: Entry, versions: Readonly<Record<string, string>>,
    minTtl?: Milliseconds
  ): Promise<boolean> {
    // A tombstone that stood meanwhile may have expired.
    if (this.now() - entry.storedAt > TOMBSTONE_MS) return false
    const isStored = await this.#write(lookup, entry, { patternVersion: versions[PATTERN_TAG], minTtl })
    if (isStored && entry.kind !== 'variants') this.#countStored(lookup.key, entry)
    return isStored
  }

  /**
   * Stores the entry of a fill as {@link write} does, and gives its lease back.
   *
   * @param lease - undefined where none was acquired
   */
  async finishFill (
    lookup: Lookup, entry: Entry, versions: Readonly<Record<string, string>>, lease: FillLease | undefined
  ): Promise<FinishedFill> {
    const { key, snapshot, epoch } = lookup
    const { [PATTERN_TAG]: patternVersion } = versions
    if (lease === undefined || patternVersion === undefined) {
      return { isStored: await this.write(lookup, entry, versions), isReleased: false }
    }
    // A tombstone that stood meanwhile may have expired.
    if (snapshot === undefined || this.now() - entry.storedAt > TOMBSTONE_MS) return NOTHING_DONE
    const finishing = this.resultOf(() => lease.finish(key.id, entry, snapshot.token, patternVersion))
    this.inBackground(finishing)
    const finished = await finishing ?? NOTHING_DONE
    if (finished.isStored) {
      this.#l1?.set(key, entry, epoch)
      if (entry.kind !== 'variants') this.#countStored(key, entry)
    }
    return finished
  }

  /**
   * Replaces an entry that a lookup has just found, unless it has been changed or removed since.
   *
   * @param entry - the same entry with additions
   * @param patternVersion - the version of `PATTERN_TAG` from before the lookup
   */
  async amend (lookup: Lookup, entry: Entry, patternVersion: string): Promise<void> {
    const ttl = entry.deleteAt - this.now()
    if (ttl > 0) await this.#write(lookup, entry, { patternVersion, ttl })
  }

  async #write (
    { key, snapshot, epoch }: Pick<Lookup, 'key' | 'snapshot' | 'epoch'>, entry: Entry, options: WriteOptions
  ): Promise<boolean> {
    if (snapshot === undefined) return false
    const writing = this.attempt(() => this.store.write(key.id, entry, snapshot.token, options))
    this.inBackground(writing)
    if (await writing !== true) return false
    this.#l1?.set(key, entry, epoch)
    return true
  }

  /**
   * Stores values unconditionally.
   *
   * @throws where they could not be stored: the earlier values may still be there
   */
  async setMany (items: ReadonlyArray<Put & { key: CacheKey, bytes: Bytes }>): Promise<void> {
    await inBatches(batchesOf(items, ({ bytes }) => bytes), batch => this.#setBatch(batch))
  }

  async #setBatch (items: ReadonlyArray<Put & { key: CacheKey }>): Promise<void> {
    const { epoch } = this
    const stored = new Map<CacheKey, Entry>()
    const puts = items.map(({ key, make, ...rest }) => ({
      ...rest,
      make (versions: Record<string, string>) {
        const entry = make(versions)
        stored.set(key, entry)
        return entry
      }
    }))
    await this.run(() => this.store.setMany(puts))
    for (const [key, entry] of stored) {
      this.#countStored(key, entry)
      this.#l1?.set(key, entry, epoch)
    }
  }

  /** Locks a key while its source is written. @returns undefined where the store did not reply */
  async lockKey ({ id }: CacheKey): Promise<WriteLock | undefined> {
    const lock = await this.attempt(() => this.store.lockKey(id))
    this.#l1?.remove([id])
    return lock
  }

  /** Stores the entry of a write that is about to be queued. @returns undefined where the store did not reply */
  async stage ({ id }: CacheKey, entry: Entry): Promise<StagedEntry | undefined> {
    const staged = await this.attempt(() => this.store.stage(id, entry))
    this.#l1?.remove([id])
    return staged
  }

  /**
   * Stores the entry of a queued write, see {@link StagedEntry.confirm}.
   *
   * @returns whether it was stored; undefined where the store did not reply
   */
  async confirm (key: CacheKey, staged: StagedEntry, entry: Entry, position: string): Promise<boolean | undefined> {
    const { epoch } = this
    const isStored = await this.attempt(() => staged.confirm(entry, position))
    if (isStored !== true) return isStored
    this.#countStored(key, entry)
    this.#l1?.set(key, entry, epoch)
    return true
  }

  /** Makes a key what it was before an entry was staged. @returns whether the store replied */
  async undo ({ id }: CacheKey, staged: StagedEntry): Promise<boolean> {
    const isUndone = await this.attempt(async () => { await staged.undo(); return true })
    this.#l1?.remove([id])
    return isUndone === true
  }

  /**
   * Removes entries whose source has been written, see {@link CacheStore.settle}. A removal that fails is repeated
   * until it succeeds, and takes effect in this process at once.
   */
  async settle (writes: ReadonlyArray<{ key: CacheKey, position: string }>): Promise<void> {
    await inBatches(batchesOf(writes, ({ key }) => key.label.length), async batch => {
      const ids = batch.map(({ key }) => key.id)
      const removed = await this.attempt(() =>
        Promise.all(batch.map(({ key: { id, label }, position }) => this.store.settle(id, label, position))))
      if (removed === undefined) {
        this.#pending.add({ ids, tags: [] })
        this.#l1?.remove(ids)
        return
      }
      for (const [i, { key: { id, label } }] of batch.entries()) {
        if (removed[i] !== true) continue
        this.#l1?.remove([id])
        this.#invalidations++
        this.events.emit('invalidate', { key: label, origin: 'local' })
      }
    })
  }

  /**
   * @returns the versions of tags, or undefined where one of them was invalidated after `since` or the store did not
   * reply
   */
  async versionsSince (tags: readonly string[], since: number): Promise<Record<string, string> | undefined> {
    const state = await this.attempt(() => this.store.tags(tags))
    return state !== undefined && state.invalidatedAt < since - this.store.skew ? state.versions : undefined
  }

  /**
   * @returns for each key whether there was an entry
   * @throws `FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING`: the removal is repeated until it succeeds, and takes effect
   * in this process at once
   */
  async remove (keys: readonly CacheKey[]): Promise<boolean[]> {
    const removed = await this.#invalidateBatches({
      batches: batchesOf(keys, ({ label }) => label.length),
      toPending: batch => ({ ids: batch.map(key => key.id), tags: [] }),
      operation: batch => Promise.all(batch.map(({ id, label }) => this.store.remove(id, label)))
    })
    for (const { label } of keys) this.events.emit('invalidate', { key: label, origin: 'local' })
    return removed.flat()
  }

  /**
   * Removes in the background the entry that a lookup found, as its source has replaced it by a result that is not
   * stored. Later entries stay.
   */
  withdraw ({ key, snapshot, isStored }: Pick<Lookup, 'key' | 'snapshot' | 'isStored'>): void {
    const { id, label } = key
    // The store may have evicted an entry that L1 still has.
    const isInL1 = this.#l1?.has(id) === true
    if (!isStored && !isInL1) return
    this.#l1?.remove([id])
    if (snapshot === undefined) return
    const removing = this.attempt(() => this.store.remove(id, label, snapshot.token))
    this.inBackground(removing.then(wasRemoved => {
      if (wasRemoved === undefined) return this.#pending.add({ ids: [id], tags: [] })
      if (!wasRemoved) return
      this.#invalidations++
      this.events.emit('invalidate', { key: label, origin: 'local' })
    }))
  }

  /** Removes keys in the background to make room. */
  evict (ids: readonly string[]): void {
    for (const id of ids) this.inBackground(this.attempt(() => this.store.remove(id)))
  }

  /**
   * @throws `FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING`: it is repeated until it succeeds, and takes effect in this
   * process at once
   */
  async invalidate (tags: readonly string[]): Promise<void> {
    await this.#invalidateTags(batchesOf(tags, tag => tag.length))
    emitInvalidated(this.events, tags, 'local')
  }

  /**
   * Removes the entries whose label matches, and refuses the fills that run now.
   *
   * @param pattern - for the event
   * @returns the number of removed entries
   * @throws where it could not be done
   */
  async removeMatching (pattern: string, matches: (label: string) => boolean): Promise<number> {
    await this.run(() => this.store.invalidate([PATTERN_TAG]))
    // Without a deadline, as the time depends on the number of entries.
    const count = await this.store.removeMatching(matches)
    // Once more, for the entries that an L1 read meanwhile.
    await this.#invalidateTags([[PATTERN_TAG]])
    this.events.emit('invalidate', { pattern, origin: 'local' })
    return count
  }

  /** Waits for background work, and writes the pending invalidations once more. */
  async close (): Promise<void> {
    while (this.#background.size > 0) await Promise.allSettled(this.#background)
    await this.#pending.close()
  }

  async #invalidateTags (batches: readonly string[][]): Promise<void> {
    const operation = (tags: string[]) => this.store.invalidate(tags)
    await this.#invalidateBatches({ batches, toPending: tags => ({ ids: [], tags }), operation })
  }

  /**
   * Invalidates batch by batch, each with its own deadline. The batch that fails and all after it become pending: they
   * would fail as well, each after its deadline.
   */
  async #invalidateBatches<T, R> ({ batches, toPending, operation }: {
    batches: readonly T[][]
    toPending: (batch: T[]) => InvalidationBatch
    operation: (batch: T[]) => Promise<R>
  }): Promise<R[]> {
    let done = 0
    this.#invalidations++
    try {
      return await inBatches(batches, async batch => {
        const result = await this.run(() => operation(batch))
        this.#invalidateL1(toPending(batch))
        done++
        return result
      })
    } catch (error) {
      for (const pending of batches.slice(done).map(toPending)) {
        this.#pending.add(pending)
        this.#invalidateL1(pending)
      }
      throw new InvalidationPendingError(reasonOf(error))
    }
  }

  async #writePending ({ ids, tags }: InvalidationBatch, onWritten: (part: InvalidationBatch) => void): Promise<void> {
    // Each group of tags is one write: a Cluster's nodes hold some tags each.
    const groups = this.store.isSpread ? tags.map(tag => [tag]) : tags.length > 0 ? [tags] : []
    await Promise.all([
      ...groups.map(async tags => { await this.store.invalidate(tags); onWritten({ tags, ids: [] }) }),
      ...ids.map(async id => { await this.store.remove(id); onWritten({ tags: [], ids: [id] }) })
    ])
  }

  #invalidateL1 ({ ids, tags }: InvalidationBatch): void {
    if (ids.length > 0) this.#l1?.remove(ids)
    if (tags.length > 0) this.#l1?.invalidate(tags)
  }

  /**
   * Whether Redis was unavailable until just now: other instances may still have to write their pending invalidations.
   *
   * @param now - by the clock's `monotonic()`
   */
  #mayMissInvalidations (now: number): boolean {
    return this.#guard !== undefined && now - this.#guard.troubledAt < RECOVERY_GRACE_MS
  }

  /** Returns the result of a lookup for traces. */
  #outcomeOf ({ entry, snapshot }: Lookup): string {
    if (snapshot === undefined) return 'unanswered'
    if (entry === undefined) return 'miss'
    // A list of variants is never stale.
    const staleAt = isRecord(entry.meta) ? Number(entry.meta['staleAt'] ?? Infinity) : Infinity
    return this.now() < staleAt ? 'hit' : 'stale'
  }

  #countStored ({ counts, label }: CacheKey, entry: Entry): void {
    const bytes = entry.body.length
    counts.stored++
    counts.storedBytes += bytes
    if (this.events.hasListeners('store')) this.events.emit('store', { key: label, bytes })
  }
}

/** Returns a name that only the same key with the same tags has. */
function nameOf ({ text }: CacheKey, tags: readonly string[]): string {
  return tags.length === 0 ? `0 ${text}` : `${tags.length} ${text.length} ${text}${JSON.stringify(tags)}`
}
