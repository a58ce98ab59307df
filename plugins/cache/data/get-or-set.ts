import { LRUCache } from 'lru-cache'
import type { Timer } from '../../shared/plugin/clock.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { toError } from '../../shared/plugin/errors.js'
import { traced } from '../../shared/plugin/tracing.js'
import type { TwoTierCache, Lookup } from '../tiers/two-tier-cache.js'
import { runFactory, untilAborted, type Factory } from './run-factory.js'
import type { Entry, ValueMeta } from '../store/entry.js'
import type { Cached } from './jsonify.js'
import type { CacheKey } from '../store/cache-key.js'
import { runUntracked, refuseCycle, trackRun, waitFor, type WaitTarget } from '../tiers/wait-for-graph.js'
import type { TaggedPlan } from './value-options.js'
import { entryOf, type ReadValue, type ValueCodec } from './value-codec.js'
import { MAX_LOOKUPS, type Fill, type FillCoordinator } from '../tiers/coalescing.js'

/** After a factory failed, what is stale is given for this long without trying again. */
const REST_MS = 1000

/** For how long closing waits for what is being made. */
const CLOSE_MS = 1000

/** What one call is about. */
interface Call<T> {
  key: CacheKey
  factory: Factory<T>
  plan: TaggedPlan
  signal: AbortSignal | undefined
}

interface Run extends WaitTarget {
  hasBegun: boolean
  value: Promise<unknown>
}

/** Gives what is there, or makes it: once, whoever asks, on however many instances. */
export class GetOrSet {
  readonly #core: TwoTierCache
  readonly #works: FillCoordinator
  readonly #values: ValueCodec
  /** Of each key, until when it rests, see {@link REST_MS}. */
  readonly #resting = new LRUCache<string, number>({ max: 10_000 })
  readonly #runs = new Map<string, Run>()
  /** Errors of values that the source gave, but that cannot be stored: nothing older is served in their place. */
  readonly #unstorable = new WeakSet<Error>()
  /** What is being made anew in the background. */
  readonly #running = new Map<string, Promise<void>>()

  constructor (core: TwoTierCache, works: FillCoordinator, values: ValueCodec) {
    this.#core = core
    this.#works = works
    this.#values = values
  }

  /** A fresh value of the first tier, at once. */
  peek<T> (key: CacheKey): ReadValue<T> | undefined {
    const entry = this.#core.getL1(key)
    const near = entry && this.#values.read<T>(entry)
    if (near?.state !== 'fresh') return undefined
    this.#core.count(key, 'hits', 'l1')
    return near
  }

  async get<T> (call: Call<T>): Promise<T> {
    const { signal } = call
    if (signal === undefined) return await this.#obtain(call)
    signal.throwIfAborted()
    return await untilAborted(this.#obtain(call), signal)
  }

  /** Makes a value anew in the background where it is in the last part of its ttl. */
  stayAhead<T> (call: Call<T>, { leftPart }: ReadValue<T>): void {
    if (leftPart > call.plan.refreshAhead) return
    this.#inBackground(call.key, async () => {
      const lookup = await this.#core.lookup(call.key, call.plan.tags)
      const now = this.#values.read<T>(lookup.entry)
      // Another instance may have done it.
      if (now?.state !== 'fresh' || now.leftPart <= call.plan.refreshAhead) await this.#refresh(lookup, call)
    })
  }

  /** Waits for what is being made in the background. */
  async settle (): Promise<void> {
    // What never ends does not keep the app from closing.
    await withDeadline(Promise.all(this.#running.values()), CLOSE_MS, () => new Error('still being made'), this.#core.clock).catch(() => {})
  }

  async #obtain<T> (call: Call<T>): Promise<T> {
    const { key, plan } = call
    for (let looks = 1; ; looks++) {
      const lookup = await this.#core.lookup(key, plan.tags)
      const found = this.#values.read<T>(lookup.entry)
      if (found?.state === 'fresh') {
        this.#core.count(key, 'hits')
        this.stayAhead(call, found)
        return found.value
      }
      if (found?.state === 'stale' || (found !== undefined && this.#isResting(key))) {
        this.#core.count(key, 'stale')
        this.#inBackground(key, () => this.#refresh(lookup, call))
        return found.value
      }
      if (looks === 1) this.#core.count(key, 'misses')
      const making = this.#takeTurn(lookup, call, found, looks)
      const made = found === undefined ? await making : await this.#orFallback(making, call, found)
      if (made !== undefined) return made.value
    }
  }

  /** @returns undefined where it is to be looked up again */
  async #takeTurn<T> (lookup: Lookup, call: Call<T>, found: ReadValue<T> | undefined, looks: number): Promise<{ value: T } | undefined> {
    const turn = await this.#works.join(lookup, Infinity, call.signal)
    if (turn === 'again' && looks < MAX_LOOKUPS) return undefined
    if (turn === 'again') return await this.#makeUnshared(lookup, call, found)
    if ('error' in turn) throw turn.error
    if ('fill' in turn) return { value: await this.#make(turn.fill, call, found) }
    return this.#values.read<T>(turn.entry) ?? await this.#makeUnshared(lookup, call, found)
  }

  /** What is too old to be given otherwise, where making it fails or takes too long. */
  async #orFallback<T> (making: Promise<{ value: T } | undefined>, { key, plan: { softTimeout }, signal }: Call<T>, found: ReadValue<T>): Promise<{ value: T } | undefined> {
    const fallBack = (): { value: T } => {
      this.#core.count(key, 'stale')
      return found
    }
    const safe = making.catch((error: unknown) => {
      // Then it is no failure.
      if (signal?.aborted || (error instanceof Error && this.#unstorable.has(error))) throw error
      this.#rest(key, error)
      return fallBack()
    })
    if (softTimeout === Infinity) return await safe
    const { clock } = this.#core
    let timer: Timer | undefined
    const late = new Promise<{ value: T }>(resolve => { timer = clock.setTimeout(() => resolve(fallBack()), softTimeout) })
    return await Promise.race([safe, late]).finally(() => clock.clearTimeout(timer))
  }

  async #refresh<T> (lookup: Lookup, call: Call<T>): Promise<void> {
    const fill = await this.#works.tryLead(lookup)
    if (fill !== undefined) await this.#make(fill, { ...call, signal: undefined }, this.#values.read<T>(lookup.entry))
  }

  async #make<T> (fill: Fill, call: Call<T>, found: ReadValue<T> | undefined): Promise<T> {
    const { signal } = call
    try {
      signal?.throwIfAborted()
      const { value, entry, isCurrent } = await trackRun(fill.waitTarget, call.key.label, async () => {
        const value = await this.#run(call, found, fill)
        return { value, ...await this.#entryFor(fill, call, value) }
      })
      // The source has replaced what was stored by what is not.
      if (!isCurrent || entry.deleteAt === entry.storedAt) this.#core.withdraw(fill.lookup)
      // In the background: nobody waits for the store.
      if (!isCurrent) fill.retry()
      else if (entry.deleteAt === entry.storedAt) fill.finish(entry)
      else fill.store(entry).catch(() => {})
      // As all others get it, who read what is stored.
      const made = this.#values.read<T>(entry)
      return made === undefined ? value : made.value
    } catch (error) {
      // Whoever came while this caller gave up did not.
      if (signal?.aborted) fill.retry()
      else fill.fail(error)
      throw error
    }
  }

  /** @returns the value as an entry, and whether none of its own tags was invalidated while it was made */
  async #entryFor<T> (fill: Fill, { key, plan }: Call<T>, value: T): Promise<{ entry: Entry<ValueMeta>, isCurrent: boolean }> {
    try {
      const draft = this.#values.draft(key, value, await this.#values.ttlOf(value, plan), plan)
      const late = await plan.tagsOf?.(value) ?? []
      const lateVersions = late.length === 0 ? {} : await this.#core.versionsSince(late, fill.startedAt)
      return { entry: entryOf(draft, fill.startedAt, { ...lateVersions, ...fill.versions }), isCurrent: lateVersions !== undefined }
    } catch (thrown) {
      const error = toError(thrown)
      this.#unstorable.add(error)
      this.#core.withdraw(fill.lookup)
      throw error
    }
  }

  async #run<T> ({ key, factory, plan: { hardTimeout }, signal }: Call<T>, found: ReadValue<T> | undefined, others?: Fill): Promise<T> {
    const run = (signal: AbortSignal): T | Promise<T> => factory({ key: key.label, signal, stale: found?.value as Cached<T> | undefined })
    return await traced('cache factory', () => runFactory(run, { key: key.label, hardTimeout, clock: this.#core.clock, signal, others }))
  }

  async #makeUnshared<T> (lookup: Lookup, call: Call<T>, found: ReadValue<T> | undefined): Promise<{ value: T }> {
    const value = await this.#runForAll(call, found)
    this.#core.withdraw(lookup)
    return { value }
  }

  /** Where nothing can be shared that is stored: one run after another, each for all who came before it began. */
  async #runForAll<T> (call: Call<T>, found: ReadValue<T> | undefined): Promise<T> {
    const { text } = call.key
    const last = this.#runs.get(text)
    if (last?.hasBegun === false) return await waitFor(last, () => last.value) as T
    if (last !== undefined) refuseCycle(last)
    const run: Run = {
      hasBegun: false,
      blockedBy: last,
      value: Promise.resolve(last?.value).catch(() => {}).then(async () => {
        run.hasBegun = true
        return await trackRun(run, call.key.label, () => this.#run({ ...call, signal: undefined }, found))
      }).finally(() => { if (this.#runs.get(text) === run) this.#runs.delete(text) })
    }
    this.#runs.set(text, run)
    return await waitFor(run, () => run.value) as T
  }

  #rest (key: CacheKey, error: unknown): void {
    this.#resting.set(key.text, this.#core.clock.monotonic() + REST_MS)
    this.#core.events.emit('error', { key: key.label, error: toError(error) })
  }

  #isResting ({ text }: CacheKey): boolean {
    const until = this.#resting.get(text)
    return until !== undefined && this.#core.clock.monotonic() <= until
  }

  #inBackground (key: CacheKey, work: () => Promise<void>): void {
    if (this.#running.has(key.text) || this.#isResting(key)) return
    const done = runUntracked(work).catch((error: unknown) => this.#rest(key, error)).finally(() => this.#running.delete(key.text))
    this.#running.set(key.text, done)
  }
}
