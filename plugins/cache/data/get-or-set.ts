import { LRUCache } from 'lru-cache'
import type { Timer } from '../../shared/plugin/clock.js'
import { toError } from '../../shared/plugin/errors.js'
import { isPromise } from '../../shared/plugin/maybe-promise.js'
import { traced } from '../../shared/plugin/tracing.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import type { CacheKey } from '../store/cache-key.js'
import type { Entry } from '../store/entry.js'
import { MAX_LOOKUPS, type Fill, type FillCoordinator } from '../tiers/coalescing.js'
import type { Lookup, TwoTierCache } from '../tiers/two-tier-cache.js'
import { refuseCycle, runUntracked, trackRun, waitFor, type WaitTarget } from '../tiers/wait-for-graph.js'
import type { Cached } from './jsonify.js'
import { runFactory, untilAborted, type Factory } from './run-factory.js'
import type { CacheScope } from './scope.js'
import type { CachedValue, ValueCodec } from './value-codec.js'
import type { GetOrSetOptions, TaggedPlan } from './value-options.js'

/** How long stale values are served without another attempt after a factory has failed. */
const FAILURE_BACKOFF_MS = 1000

/** How long closing waits for background refreshes. */
const CLOSE_TIMEOUT_MS = 1000

interface Call<T> {
  key: CacheKey
  factory: Factory<T>
  plan: TaggedPlan
  signal: AbortSignal | undefined
}

/** A run of a factory whose value cannot be shared through the cache. */
interface UnsharedRun extends WaitTarget {
  hasBegun: boolean
  value: Promise<unknown>
}

/** Returns cached values, or runs their factories: once per key at a time, across all instances. */
export class GetOrSet {
  readonly #cache: TwoTierCache
  readonly #fills: FillCoordinator
  readonly #codec: ValueCodec
  /** By key: until when no attempt is made, see {@link FAILURE_BACKOFF_MS}. */
  readonly #backOffUntil = new LRUCache<string, number>({ max: 10_000 })
  readonly #unsharedRuns = new Map<string, UnsharedRun>()
  /** Errors of values that the source returned but that cannot be stored: no older value is served in their place. */
  readonly #unstorable = new WeakSet<Error>()
  readonly #backgroundRefreshes = new Map<string, Promise<void>>()

  constructor (cache: TwoTierCache, fills: FillCoordinator, codec: ValueCodec) {
    this.#cache = cache
    this.#fills = fills
    this.#codec = codec
  }

  async get<T> (key: CacheKey, factory: Factory<T>, options: GetOrSetOptions<T>, scope: CacheScope): Promise<T> {
    const { signal } = options
    const near = this.getL1<T>(key)
    if (near !== undefined) {
      // Options are resolved only where they matter: on most calls there is nothing more to do.
      if ((options.refreshAhead ?? scope.defaults.refreshAhead) !== 0) {
        this.#refreshAhead({ key, factory, plan: scope.planOf(options), signal }, near)
      }
      return near.value
    }
    const call = { key, factory, plan: scope.planOf(options), signal }
    if (signal === undefined) return await this.#lookupOrFill(call)
    signal.throwIfAborted()
    return await untilAborted(this.#lookupOrFill(call), signal)
  }

  /** Returns a fresh value of L1, and counts the hit. */
  getL1<T> (key: CacheKey): CachedValue<T> | undefined {
    const entry = this.#cache.getL1(key)
    const near = entry && this.#codec.read<T>(entry)
    if (near?.state !== 'fresh') return undefined
    this.#cache.count(key, 'hits', 'l1')
    return near
  }

  /**
   * Waits for background refreshes, for {@link CLOSE_TIMEOUT_MS} at most: a factory that hangs does not keep the app
   * open.
   */
  async settle (): Promise<void> {
    const refreshes = Promise.all(this.#backgroundRefreshes.values())
    await withDeadline(
      refreshes, CLOSE_TIMEOUT_MS, () => new Error('refreshes still run'), this.#cache.clock
    ).catch(() => {})
  }

  async #lookupOrFill<T> (call: Call<T>): Promise<T> {
    const { key, plan } = call
    for (let lookups = 1; ; lookups++) {
      const lookup = await this.#fills.lookup(key, plan.tags)
      const cached = this.#codec.read<T>(lookup.entry)
      if (cached?.state === 'fresh') {
        this.#cache.count(key, 'hits')
        this.#refreshAhead(call, cached)
        return cached.value
      }
      if (cached !== undefined && (cached.state === 'stale' || this.#isBackingOff(key))) {
        this.#cache.count(key, 'stale')
        this.#inBackground(key, () => this.#refresh(lookup, call))
        return cached.value
      }
      if (lookups === 1) this.#cache.count(key, 'misses')
      const filling = this.#joinOrLead(lookup, call, cached, lookups < MAX_LOOKUPS)
      const filled = cached === undefined ? await filling : await this.#orStale(filling, call, cached)
      if (filled !== undefined) return filled.value
    }
  }

  /** @returns undefined where the key is to be looked up again */
  async #joinOrLead<T> (
    lookup: Lookup, call: Call<T>, cached: CachedValue<T> | undefined, mayLookAgain: boolean
  ): Promise<{ value: T } | undefined> {
    const admission = await this.#fills.join(lookup, Infinity, call.signal)
    switch (admission.kind) {
      case 'lead': return { value: await this.#lead(admission.fill, call, cached) }
      case 'retry': return mayLookAgain ? undefined : await this.#runUnshared(lookup, call, cached)
      case 'failed': throw admission.error
      default: return this.#codec.read<T>(admission.entry) ?? await this.#runUnshared(lookup, call, cached)
    }
  }

  /** Runs the factory, stores its value in the background, and lets the waiting callers go on. */
  async #lead<T> (fill: Fill, call: Call<T>, cached: CachedValue<T> | undefined): Promise<T> {
    const { signal } = call
    try {
      signal?.throwIfAborted()
      const { value, entry, isCurrent } = await trackRun(fill.waitTarget, call.key.label, async () => {
        const value = await this.#runFactory(call, cached, fill)
        return { value, ...await this.#toEntry(fill, call, value) }
      })
      const isStorable = entry.deleteAt > entry.storedAt
      // The stored value is outdated, and nothing replaces it.
      if (!isCurrent || !isStorable) this.#cache.withdraw(fill.lookup)
      if (!isCurrent) fill.retry()
      else if (!isStorable) fill.finish(entry)
      else fill.store(entry).catch(() => {})
      // Deserialized as for every other caller, who reads what is stored.
      const filled = this.#codec.read<T>(entry)
      return filled === undefined ? value : filled.value
    } catch (error) {
      // Callers that came while this one gave up did not give up themselves.
      if (signal?.aborted) fill.retry()
      else fill.fail(error)
      throw error
    }
  }

  /** @returns the entry, and whether none of the tags that depend on the value was invalidated while the factory ran */
  async #toEntry<T> (fill: Fill, { key, plan }: Call<T>, value: T): Promise<{ entry: Entry, isCurrent: boolean }> {
    try {
      const ttl = this.#codec.ttlOf(value, plan)
      const draft = this.#codec.draft(key, value, isPromise(ttl) ? await ttl : ttl, plan)
      const lateTags = plan.tagsOf === undefined ? [] : await plan.tagsOf(value)
      if (lateTags.length === 0) {
        return { entry: this.#codec.toEntry(draft, fill.startedAt, fill.versions ?? {}), isCurrent: true }
      }
      const lateVersions = await this.#cache.versionsSince(lateTags, fill.startedAt)
      return {
        entry: this.#codec.toEntry(draft, fill.startedAt, { ...lateVersions, ...fill.versions }),
        isCurrent: lateVersions !== undefined
      }
    } catch (thrown) {
      const error = toError(thrown)
      this.#unstorable.add(error)
      this.#cache.withdraw(fill.lookup)
      throw error
    }
  }

  #runFactory<T> (
    { key, factory, plan: { hardTimeout }, signal }: Call<T>, cached: CachedValue<T> | undefined, fill?: Fill
  ): Promise<T> {
    const run = (signalOf: () => AbortSignal): T | Promise<T> =>
      factory({ key: key.label, get signal () { return signalOf() }, stale: cached?.value as Cached<T> | undefined })
    return traced('cache factory', () =>
      runFactory(run, { key: key.label, hardTimeout, clock: this.#cache.clock, signal, fill }))
  }

  /** Serves a value of `staleIfError` where its fill fails, or takes longer than `softTimeout`. */
  async #orStale<T> (
    filling: Promise<{ value: T } | undefined>, call: Call<T>, cached: CachedValue<T>
  ): Promise<{ value: T } | undefined> {
    const { key, plan: { softTimeout }, signal } = call
    const serveStale = (): { value: T } => {
      this.#cache.count(key, 'stale')
      return cached
    }
    const filledOrStale = filling.catch((error: unknown) => {
      // An aborted call is no failure of the factory.
      if (signal?.aborted || (error instanceof Error && this.#unstorable.has(error))) throw error
      this.#backOff(key, error)
      return serveStale()
    })
    if (softTimeout === Infinity) return await filledOrStale
    const { clock } = this.#cache
    let timer: Timer | undefined
    const late = new Promise<{ value: T }>(
      resolve => { timer = clock.setTimeout(() => resolve(serveStale()), softTimeout) }
    )
    return await Promise.race([filledOrStale, late]).finally(() => clock.clearTimeout(timer))
  }

  /** Refreshes a value in the background where it is in the last part of its TTL. */
  #refreshAhead<T> (call: Call<T>, { remainingShare }: CachedValue<T>): void {
    const { key, plan } = call
    if (remainingShare > plan.refreshAhead) return
    this.#inBackground(key, async () => {
      const lookup = await this.#cache.lookup(key, plan.tags)
      const cached = this.#codec.read<T>(lookup.entry)
      // Another instance may have refreshed it.
      if (cached?.state !== 'fresh' || cached.remainingShare <= plan.refreshAhead) await this.#refresh(lookup, call)
    })
  }

  async #refresh<T> (lookup: Lookup, call: Call<T>): Promise<void> {
    const fill = await this.#fills.tryLead(lookup)
    if (fill !== undefined) await this.#lead(fill, { ...call, signal: undefined }, this.#codec.read<T>(lookup.entry))
  }

  #inBackground (key: CacheKey, refresh: () => Promise<void>): void {
    const { text } = key
    if (this.#backgroundRefreshes.has(text) || this.#isBackingOff(key)) return
    const done = runUntracked(refresh)
      .catch((error: unknown) => this.#backOff(key, error))
      .finally(() => this.#backgroundRefreshes.delete(text))
    this.#backgroundRefreshes.set(text, done)
  }

  async #runUnshared<T> (lookup: Lookup, call: Call<T>, cached: CachedValue<T> | undefined): Promise<{ value: T }> {
    const value = await this.#joinUnsharedRun(call, cached)
    this.#cache.withdraw(lookup)
    return { value }
  }

  /**
   * Runs the factory after the run before it. Each run serves every caller of this process that came before it began.
   */
  async #joinUnsharedRun<T> (call: Call<T>, cached: CachedValue<T> | undefined): Promise<T> {
    const { text, label } = call.key
    const last = this.#unsharedRuns.get(text)
    if (last?.hasBegun === false) return await waitFor(last, () => last.value) as T
    if (last !== undefined) refuseCycle(last)
    const run: UnsharedRun = {
      hasBegun: false,
      blockedBy: last,
      value: Promise.resolve(last?.value).catch(() => {}).then(async () => {
        run.hasBegun = true
        return await trackRun(run, label, () => this.#runFactory({ ...call, signal: undefined }, cached))
      }).finally(() => { if (this.#unsharedRuns.get(text) === run) this.#unsharedRuns.delete(text) })
    }
    this.#unsharedRuns.set(text, run)
    return await waitFor(run, () => run.value) as T
  }

  #backOff ({ text, label }: CacheKey, error: unknown): void {
    this.#backOffUntil.set(text, this.#cache.clock.monotonic() + FAILURE_BACKOFF_MS)
    this.#cache.events.emit('error', { key: label, error: toError(error) })
  }

  #isBackingOff ({ text }: CacheKey): boolean {
    const until = this.#backOffUntil.get(text)
    return until !== undefined && this.#cache.clock.monotonic() <= until
  }
}
