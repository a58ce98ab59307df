import { sleep, type Clock } from '../../shared/plugin/clock.js'
import { readOptions } from '../../shared/plugin/option-reader.js'
import { invalidArgumentError } from '../../shared/plugin/errors.js'
import { argumentKey } from './argument-key.js'
import { batchesOf, inBatches } from '../store/batches.js'
import { isPromise, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { MAX_STALENESS_MS } from '../tiers/invalidation-bus.js'
import type { TwoTierCache, CacheStats } from '../tiers/two-tier-cache.js'
import type { StatsCounter } from '../stats.js'
import { StoreUnavailableError } from '../errors.js'
import type { CacheEvents, CacheListener } from '../events.js'
import type { Factory } from './run-factory.js'
import type { GetOrSet } from './get-or-set.js'
import type { Cached } from './jsonify.js'
import { compileGlob, escapeGlob, MAX_GLOB_LENGTH } from '../store/glob.js'
import { dataKey, type CacheKey } from '../store/cache-key.js'
import { plainLabel } from '../store/path-tag.js'
import type { StoreStats } from '../store/redis-stats.js'
import { ALL_TAG } from '../store/store.js'
import { checkTags, type Tag } from '../store/tags.js'
import type { Tiers } from '../tiers/ttl.js'
import { resolveDefaults, resolveValueOptions, type GetOrSetOptions, type TaggedPlan, type ValueDefaults, type ValueOptions, type ValuePlan, type WriteThroughOptions } from './value-options.js'
import { entryOf, type ValueCodec } from './value-codec.js'
import type { WriteBehindOptions } from './write-behind/options.js'
import type { WriteBehind, WriteBehinds, WriteBehindStats } from './write-behind/write-behind.js'
import type { Writer, WriteThrough } from './write-through.js'

export interface InvalidateOptions {
  /**
   * Resolves only when no instance can serve it any more, also out of its first tier: after 100 ms, as that is for how long
   * one may not have heard. @default false
   */
  everywhere?: boolean | undefined
}

export interface WrapOptions<A extends unknown[], T> extends Omit<GetOrSetOptions<T>, 'signal'> {
  /**
   * The key, as a function of the arguments, which may be async; or its first part, which the arguments follow. Arguments that are
   * neither plain data nor of a known kind, such as instances of classes, need a function.
   */
  key: string | ((...args: A) => MaybePromise<string>)
}

/** A value with its key, and options that are its own. */
export type KeyedValue<T = unknown> = readonly [key: string, value: T, options?: ValueOptions<T>]

/** `fastify.cache`: for anything a function returns. */
export interface DataCache {
  /** @returns the value, also while it is stale but being made anew; undefined where there is none */
  get <T = unknown>(key: string): Promise<Cached<T> | undefined>
  /** The same for many keys, in the time of one. */
  getMany <T = unknown>(keys: readonly string[]): Promise<Array<Cached<T> | undefined>>
  /** Whether there is a value, even if it is `undefined`. It is not counted. */
  has (key: string): Promise<boolean>
  /**
   * Stores a value whatever is there.
   *
   * @throws `FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE` where it could not be stored: what was there may still be there
   * @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE`
   */
  set <T>(key: string, value: T, options?: ValueOptions<T>): Promise<void>
  /** The same for many, in the time of one; options that a value has itself count above the common ones. */
  setMany <T>(values: ReadonlyArray<KeyedValue<T>>, options?: ValueOptions<T>): Promise<void>
  /** @returns whether there was one @throws as {@link DataCache.invalidateTags} */
  delete (key: string, options?: InvalidateOptions): Promise<boolean>
  /** The same for many keys, in the time of one. @returns how many there were */
  deleteMany (keys: readonly string[], options?: InvalidateOptions): Promise<number>
  /**
   * The value of the key, or what `factory` makes; on all instances it runs once at a time. Who waits in this process gets its
   * error as well.
   *
   * @throws what the factory throws, where `staleIfError` has nothing
   * @throws `FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT`
   * @throws `FST_REDIS_SUITE_CACHE_REENTRANT` where the factory asks for its own key, or for one whose factory waits for it
   * @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE`
   */
  getOrSet <T>(key: string, factory: Factory<T>, options?: GetOrSetOptions<T>): Promise<Cached<T>>
  /** A function that asks the cache first. @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` for an argument that has no key */
  wrap <A extends unknown[], T>(fn: (...args: A) => T | Promise<T>, options: WrapOptions<A, T>): (...args: A) => Promise<Cached<T>>
  /**
   * Writes the source by `writer`, then the cache, with what the writer returned, or else `value`. A writer that fails leaves the cache as it
   * was. Where the cache cannot be written the value is removed; a process that dies in between leaves nothing that could be read.
   *
   * @returns what is cached
   * @throws what the writer throws, or `FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT`; never as the cache failed
   */
  writeThrough <T>(key: string, value: T, writer: Writer<T>, options?: WriteThroughOptions<T>): Promise<T>
  /**
   * Accepts writes into a Redis stream and writes them to the source later, in batches, at least once, in order per key. To be called
   * once a name in each instance; names are those of the whole cache.
   *
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
   */
  writeBehind <T = unknown>(name: string, options: WriteBehindOptions<T>): WriteBehind<T>
  /**
   * A cache of its own in this one: with keys, defaults and counts of its own, and a `clear()` of its own that is one write. Patterns
   * see its keys as `prefix:key`; tags are those of the whole cache.
   */
  withPrefix (prefix: string, defaults?: ValueDefaults): DataCache
  /**
   * Makes all answers and values with one of these tags invalid: none that was begun before is served after it returns.
   *
   * @throws `FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING` where it could not be written: it will be, once the store is reached, and this
   * process takes it as done at once
   */
  invalidateTags (tags: readonly Tag[], options?: InvalidateOptions): Promise<void>
  /**
   * Removes answers whose path and query, and values whose key, match: `*` is any text, `?` any one character, `[a-z]` one
   * of these, and a backslash takes the meaning of what follows it. It looks at every entry, in batches.
   *
   * @param glob - at most 1,024 characters
   * @returns how many entries were removed; a key of another type is skipped
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
   */
  invalidatePattern (glob: string): Promise<number>
  /** Makes everything invalid; with a prefix, its values. */
  clear (options?: InvalidateOptions): Promise<void>
  /** What this process counted, of the whole cache. */
  stats (): CacheStats
  /** Of what is written behind, by name; where the store does not answer, without it. */
  writeBehindStats (): Promise<Record<string, WriteBehindStats>>
  /** What the store says of itself. @throws where it does not answer */
  storeStats (): Promise<StoreStats>
  /** @returns a function that ends it */
  on <E extends keyof CacheEvents>(event: E, listener: CacheListener<E>): () => void
}

/** What all views of one data cache share. */
export interface DataCacheParts {
  core: TwoTierCache
  values: ValueCodec
  reader: GetOrSet
  writer: WriteThrough
  behinds: WriteBehinds
  tiers: Tiers
}

/** The size of a tag in a batch: each tag has its own key, whose version is read and perhaps written. */
const TAG_BYTES = 1024

// So that it need not be read anew at each call.
const NO_OPTIONS = Object.freeze({})

interface Scope {
  prefixes: readonly string[]
  /** One a prefix, of all values below it, so that they can be made invalid at once. */
  tags: readonly string[]
  counts: StatsCounter
  defaults: ValuePlan
}

export function createDataCache (parts: DataCacheParts, defaults: ValuePlan): DataCache {
  return createView(parts, { prefixes: [], tags: [], counts: parts.core.countsOf('data'), defaults })
}

function createView (parts: DataCacheParts, scope: Scope): DataCache {
  const { core, values, reader, writer, tiers } = parts
  let plainPlan: TaggedPlan | undefined
  const keyOf = (name: unknown) => dataKey(checkKey(name), scope.prefixes, scope.counts)

  function planOf (options: GetOrSetOptions<never> & WriteThroughOptions<never>): TaggedPlan {
    if (options === NO_OPTIONS && plainPlan !== undefined) return plainPlan
    const plan = resolveValueOptions(options, scope.defaults, tiers)
    const whole = scope.tags.length === 0 ? plan : { ...plan, tags: [...scope.tags, ...plan.tags] }
    if (options === NO_OPTIONS) plainPlan = whole
    return whole
  }

  async function read<T> (key: CacheKey): Promise<T | undefined> {
    const near = reader.peek<T>(key)
    if (near !== undefined) return near.value
    const found = values.read<T>((await core.lookup(key, scope.tags)).entry)
    const isThere = found !== undefined && found.state !== 'fallback'
    core.count(key, !isThere ? 'misses' : found.state === 'fresh' ? 'hits' : 'stale')
    return isThere ? found.value : undefined
  }

  async function getOrSet<T> (key: CacheKey, factory: Factory<T>, options: GetOrSetOptions<T>): Promise<T> {
    const near = reader.peek<T>(key)
    if (near !== undefined) {
      // Nearly always there is no more to do, so the options are not even read.
      if ((options.refreshAhead ?? scope.defaults.refreshAhead) !== 0) reader.stayAhead({ key, factory, plan: planOf(options), signal: undefined }, near)
      return near.value
    }
    return await reader.get({ key, factory, plan: planOf(options), signal: options.signal })
  }

  async function store<T> (items: ReadonlyArray<KeyedValue<T>>, common: ValueOptions<T>): Promise<void> {
    const prepared = items.map(([name, value, own]) => {
      if (value === undefined) throw invalidArgumentError('cache', 'value', value, 'anything but undefined')
      const key = keyOf(name)
      const plan = planOf({ ...common, ...own })
      return whenReady(plan.ttlOf(value), ttl => whenReady(plan.tagsOf?.(value) ?? [], late => {
        const draft = values.draft(key, value, ttl, plan)
        const tags = [...plan.tags, ...late]
        return { key, id: key.id, tags, isKept: draft.life > 0, bytes: draft.body.length + TAG_BYTES * tags.length, make: (versions: Record<string, string>) => entryOf(draft, core.now(), versions) }
      }))
    })
    // Without a wait, calls reach the store in the order in which they were made.
    const puts = prepared.some(isPromise) ? await Promise.all(prepared) : prepared as Array<Awaited<typeof prepared[number]>>
    const kept = puts.filter(({ isKept }) => isKept)
    const removed = puts.filter(({ isKept }) => !isKept)
    try {
      await Promise.all([kept.length > 0 && core.setMany(kept), removed.length > 0 && core.remove(removed.map(({ key }) => key))])
    } catch {
      throw new StoreUnavailableError()
    }
  }

  async function remove (names: readonly string[], options?: InvalidateOptions): Promise<number> {
    const isEverywhere = resolveEverywhere(options)
    if (names.length === 0) return 0
    const removed = await core.remove(names.map(keyOf))
    await heardBy(core.clock, isEverywhere)
    return removed.filter(Boolean).length
  }

  async function invalidate (tags: readonly string[], options?: InvalidateOptions): Promise<void> {
    const isEverywhere = resolveEverywhere(options)
    await core.invalidate(tags)
    await heardBy(core.clock, isEverywhere)
  }

  return {
    get: async name => await read(keyOf(name)),
    async getMany (names) {
      const keys = checkList(names, 'keys').map(keyOf)
      return (await inBatches(batchesOf(keys, ({ text }) => text.length), batch => Promise.all(batch.map(key => read<never>(key))))).flat()
    },
    async has (name) {
      const key = keyOf(name)
      const found = values.read(core.getL1(key)) ?? values.read((await core.lookup(key, scope.tags)).entry)
      return found !== undefined && found.state !== 'fallback'
    },
    set: async (name, value, options = {}) => await store([[name, value]], checkOptions(options)),
    setMany: async (items, options = {}) => await store(checkList(items, 'values'), checkOptions(options)),
    delete: async (name, options) => await remove([name], options) > 0,
    deleteMany: async (names, options) => await remove(checkList(names, 'keys'), options),
    // Only the serializer knows the type of what it reads.
    getOrSet: async (name, factory, options = NO_OPTIONS) => await getOrSet(keyOf(name), checkFunction(factory, 'factory'), checkOptions(options)) as never,
    wrap (fn, given) {
      const { key, ...options } = checkOptions(given)
      checkFunction(fn, 'fn')
      if (typeof key !== 'function') checkKey(key, 'options.key')
      // So that options that cannot be used are told now.
      planOf(options)
      return async (...args) => {
        const name = typeof key === 'function' ? key(...args) : argumentKey(key, args)
        return await getOrSet(keyOf(isPromise(name) ? await name : name), () => fn(...args), options) as never
      }
    },
    async writeThrough (name, value, write, given = {}) {
      const { invalidates = [], ...options } = checkOptions(given)
      const plan = planOf(options)
      return await writer.write({ key: keyOf(name), value, writer: checkFunction(write, 'writer'), plan, invalidates: checkTags(invalidates, 'invalidates') })
    },
    writeBehind: parts.behinds.writeBehind,
    withPrefix (name, defaults = {}) {
      const prefixes = [...scope.prefixes, checkKey(name, 'prefix')]
      // No tag of a program's own begins so.
      const tags = [...scope.tags, `\0${JSON.stringify(prefixes)}`]
      return createView(parts, { prefixes, tags, counts: core.countsOf(prefixes.join(':')), defaults: resolveDefaults(checkOptions(defaults), scope.defaults, tiers) })
    },
    invalidateTags: async (tags, options) => await invalidate(checkTags(tags, 'tags', invalidArgumentError), options),
    async invalidatePattern (glob) {
      const whole = [...scope.prefixes.map(escapeGlob), checkGlob(glob)].join(':')
      const matches = compileGlob(whole)
      return await core.removeMatching(whole, label => {
        const plain = plainLabel(label)
        return matches(label) || (plain !== label && matches(plain))
      })
    },
    clear: async options => await invalidate(scope.tags.length === 0 ? [ALL_TAG] : scope.tags.slice(-1), options),
    stats: () => core.stats,
    writeBehindStats: parts.behinds.stats,
    storeStats: async () => await core.storeStats(),
    on: (event, listener) => core.events.on(event, listener)
  }
}

async function heardBy (clock: Clock, isEverywhere: boolean): Promise<void> {
  if (isEverywhere) await sleep(clock, MAX_STALENESS_MS)
}

function resolveEverywhere (given: InvalidateOptions = {}): boolean {
  const read = readOptions('cache', checkOptions(given))
  read.onlyKnown(['everywhere'])
  return read.boolean('everywhere', false)
}

function checkOptions<O extends object> (given: O): O {
  return typeof given === 'object' && given !== null ? given : fail('options', given, 'an object')
}

function checkKey (key: unknown, argument = 'key'): string {
  if (typeof key === 'string' && key !== '') return key
  throw invalidArgumentError('cache', argument, key, 'a string that is not empty')
}

function checkGlob (glob: unknown): string {
  if (typeof glob === 'string' && glob !== '' && glob.length <= MAX_GLOB_LENGTH) return glob
  throw invalidArgumentError('cache', 'glob', glob, `a string of 1 to ${MAX_GLOB_LENGTH} characters`)
}

function checkList<T> (list: readonly T[], name: string): readonly T[] {
  return Array.isArray(list) ? list : fail(name, list, 'a list')
}

function checkFunction<F> (given: F, name: string): F {
  return typeof given === 'function' ? given : fail(name, given, 'a function')
}

function fail (name: string, given: unknown, allowed: string): never {
  throw invalidArgumentError('cache', name, given, allowed)
}
