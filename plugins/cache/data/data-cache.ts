import { invalidArgumentError, withoutCommand } from '../../shared/plugin/errors.js'
import { isPromise, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { StoreUnavailableError } from '../errors.js'
import type { CacheEvents, CacheListener } from '../events.js'
import { batchesOf, inBatches } from '../store/batches.js'
import type { CacheKey } from '../store/cache-key.js'
import { compileGlob, escapeGlob, MAX_GLOB_LENGTH } from '../store/glob.js'
import { plainLabel } from '../store/path-tag.js'
import type { StoreStats } from '../store/store.js'
import { ALL_TAG } from '../store/store.js'
import { checkTags, type Tag } from '../store/tags.js'
import type { CacheStats, TwoTierCache } from '../tiers/two-tier-cache.js'
import { argumentKey } from './argument-key.js'
import type { GetOrSet } from './get-or-set.js'
import type { Cached } from './jsonify.js'
import type { Factory } from './run-factory.js'
import { NO_OPTIONS, type CacheScope } from './scope.js'
import type { ValueCodec } from './value-codec.js'
import type { GetOrSetOptions, ValueDefaults, ValueOptions, WriteThroughOptions } from './value-options.js'
import { openCachedWrites } from './write-behind/cached-writes.js'
import type { WriteBehindOptions } from './write-behind/options.js'
import type { WriteBehind, WriteBehinds, WriteBehindStats } from './write-behind/write-behind.js'
import type { Writer, WriteThrough } from './write-through.js'

export interface WrapOptions<A extends unknown[], T> extends Omit<GetOrSetOptions<T>, 'signal'> {
  /**
   * The prefix of the keys, to which the arguments are added; or a function of the arguments that returns the key,
   * which may be async. Arguments that are not plain data, such as instances of classes, need a function.
   */
  key: string | ((...args: A) => MaybePromise<string>)
}

/** A value with its key, and with options that override the common ones. */
export type KeyedValue<T = unknown> = readonly [key: string, value: T, options?: ValueOptions<T>]

/** `fastify.cache`: a cache for the values of any function. */
export interface DataCache {
  /** Returns a value that is fresh or within `staleWhileRevalidate`; undefined if there is none. */
  get <T = unknown>(key: string): Promise<Cached<T> | undefined>
  /** Returns the values of many keys, in the same order, in about one round trip. */
  getMany <T = unknown>(keys: readonly string[]): Promise<Array<Cached<T> | undefined>>
  /** Returns whether `get` would find a value, even if it is `undefined`. Counts neither a hit nor a miss. */
  has (key: string): Promise<boolean>
  /**
   * Stores a value, and replaces the previous one.
   *
   * @throws `FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE` if it could not be stored: the previous value may still be cached
   * @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE`
   */
  set <T>(key: string, value: T, options?: ValueOptions<T>): Promise<void>
  /** Stores many values in about one round trip; the options of a value override the common ones. */
  setMany <T>(values: ReadonlyArray<KeyedValue<T>>, options?: ValueOptions<T>): Promise<void>
  /** Removes a value. @returns whether there was one @throws like {@link DataCache.invalidateTags} */
  delete (key: string): Promise<boolean>
  /** Removes the values of many keys in about one round trip. @returns how many values there were */
  deleteMany (keys: readonly string[]): Promise<number>
  /**
   * Returns the cached value, or calls `factory` once across all instances. Concurrent callers of one process share its
   * value or error.
   *
   * @example
   * const options = { ttl: '1m', tags: [`user:${id}`] }
   * const user = await fastify.cache.getOrSet(`user:${id}`, async ({ signal }) => await loadUser(id, signal), options)
   *
   * @returns a deserialized copy, also for the caller whose factory ran: with the JSON serializer a `Date` becomes a
   *   string
   * @throws the error of the factory, unless `staleIfError` allows a cached value
   * @throws `FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT`
   * @throws `FST_REDIS_SUITE_CACHE_REENTRANT` if the factory asks for its own key, or for a key whose factory waits for
   *   it
   * @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE`
   */
  getOrSet <T>(key: string, factory: Factory<T>, options?: GetOrSetOptions<T>): Promise<Cached<T>>
  /**
   * Returns a function with the arguments of `fn` that caches its results.
   *
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`, from the returned function as well, for an argument that no key can
   *   be made of
   */
  wrap <A extends unknown[], T>(
    fn: (...args: A) => T | Promise<T>, options: WrapOptions<A, T>
  ): (...args: A) => Promise<Cached<T>>
  /**
   * Writes the source by calling `writer`, then caches what the writer returned, or else `value`. If the writer fails,
   * the cache stays as it was. If the cache cannot be written, the value is removed. If the process dies in between,
   * the key reads as missing.
   *
   * @returns the value that is cached
   * @throws the error of the writer, or `FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT`; a failure of the cache is never thrown
   */
  writeThrough <T>(key: string, value: T, writer: Writer<T>, options?: WriteThroughOptions<T>): Promise<T>
  /**
   * Opens a queue of writes in a Redis stream, which are written to the source later: in batches, at least once, in
   * order per key. Call it once per name in each instance; names are shared by the whole cache. The option
   * `cache` caches the value that is added in this view.
   *
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
   */
  writeBehind <T = unknown>(name: string, options: WriteBehindOptions<T>): WriteBehind<T>
  /**
   * Returns a view of the cache with its own keys, defaults and counters. Its `clear()` is one write. Patterns match
   * its keys as `prefix:key`; tags are shared by the whole cache.
   */
  withPrefix (prefix: string, defaults?: ValueDefaults): DataCache
  /**
   * Invalidates all responses and values with one of these tags. After it resolves, nothing that was computed before is
   * served.
   *
   * @throws `FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING` if the store is unavailable: this process stops serving the
   *   entries at once, and repeats the write until it succeeds
   */
  invalidateTags (tags: readonly Tag[]): Promise<void>
  /**
   * Removes responses by path and query, and values by key. In the glob, `*` matches any text, `?` one character, and
   * `[a-z]` one of a set; a backslash escapes. It scans every entry, in batches.
   *
   * @param glob - 1 to 1,024 characters
   * @returns how many entries were removed; keys of other types are skipped
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
   */
  invalidatePattern (glob: string): Promise<number>
  /** Invalidates all responses and values; in a view with a prefix, its values. */
  clear (): Promise<void>
  /** Returns the counters of this process for the whole cache. */
  stats (): CacheStats
  /** Returns the state of each write-behind queue by name, without those whose store does not respond. */
  writeBehindStats (): Promise<Record<string, WriteBehindStats>>
  /** Returns the figures of the store. @throws if it does not respond */
  storeStats (): Promise<StoreStats>
  /** Adds a listener. @returns a function that removes it */
  on <E extends keyof CacheEvents>(event: E, listener: CacheListener<E>): () => void
}

/** The parts that all views of a data cache share. */
interface DataCacheParts {
  cache: TwoTierCache
  codec: ValueCodec
  reader: GetOrSet
  writer: WriteThrough
  writeBehinds: WriteBehinds
}

/** The size of a tag in a batch: each tag has its own key, whose version is read and perhaps written. */
const TAG_BYTES = 1024

/** @param scope - the keys that the view covers */
export function createDataCache (parts: DataCacheParts, scope: CacheScope): DataCache {
  const { cache, codec, reader, writer, writeBehinds } = parts
  const keyOf = (name: unknown) => scope.keyOf(checkKey(name))

  async function read<T> (key: CacheKey): Promise<T | undefined> {
    const near = reader.getL1<T>(key)
    if (near !== undefined) return near.value
    const cached = codec.read<T>((await cache.lookup(key, scope.tags)).entry)
    const isHit = cached !== undefined && cached.state !== 'fallback'
    cache.count(key, !isHit ? 'misses' : cached.state === 'fresh' ? 'hits' : 'stale')
    return isHit ? cached.value : undefined
  }

  async function store<T> (items: ReadonlyArray<KeyedValue<T>>, common: ValueOptions<T>): Promise<void> {
    const prepared = items.map(([name, value, own]) => {
      if (value === undefined) throw invalidArgumentError('cache', 'value', value, 'anything but undefined')
      const key = keyOf(name)
      const plan = scope.planOf({ ...common, ...own })
      return whenReady(plan.ttl(value), ttl => whenReady(plan.tagsOf?.(value) ?? [], lateTags => {
        const draft = codec.draft(key, value, ttl, plan)
        const tags = [...plan.tags, ...lateTags]
        const bytes = draft.body.length + TAG_BYTES * tags.length
        return {
          key,
          id: key.id,
          tags,
          isStorable: draft.ttl > 0,
          bytes,
          make: (versions: Record<string, string>) => codec.toEntry(draft, cache.now(), versions)
        }
      }))
    })
    // Without an await in between, calls reach the store in the order in which they were made.
    const puts = prepared.some(isPromise)
      ? await Promise.all(prepared)
      : prepared as Array<Awaited<typeof prepared[number]>>
    const stored = puts.filter(({ isStorable }) => isStorable)
    const removed = puts.filter(({ isStorable }) => !isStorable)
    try {
      await Promise.all(
        [stored.length > 0 && cache.setMany(stored), removed.length > 0 && cache.remove(removed.map(({ key }) => key))]
      )
    } catch (error) {
      throw new StoreUnavailableError({ cause: withoutCommand(error) })
    }
  }

  async function remove (names: readonly string[]): Promise<number> {
    if (names.length === 0) return 0
    return (await cache.remove(names.map(keyOf))).filter(Boolean).length
  }

  return {
    get: async name => await read(keyOf(name)),
    async getMany (names) {
      const keys = checkArray(names, 'keys').map(keyOf)
      return (await inBatches(batchesOf(keys, ({ text }) => text.length), batch =>
        Promise.all(batch.map(key => read<never>(key))))).flat()
    },
    async has (name) {
      const key = keyOf(name)
      const cached = codec.read(cache.getL1(key)) ?? codec.read((await cache.lookup(key, scope.tags)).entry)
      return cached !== undefined && cached.state !== 'fallback'
    },
    set: async (name, value, options = {}) => await store([[name, value]], checkOptions(options)),
    setMany: async (items, options = {}) => await store(checkArray(items, 'values'), checkOptions(options)),
    delete: async name => await remove([name]) > 0,
    deleteMany: async names => await remove(checkArray(names, 'keys')),
    // The serializer alone knows the type of the values that it reads.
    getOrSet: async (name, factory, options = NO_OPTIONS) =>
      await reader.get(keyOf(name), checkFunction(factory, 'factory'), checkOptions(options), scope) as never,
    wrap (fn, given) {
      const { key, ...options } = checkOptions(given)
      checkFunction(fn, 'fn')
      if (typeof key !== 'function') checkKey(key, 'options.key')
      // Reports invalid options now, and not at the first call.
      scope.planOf(options)
      return async (...args) => {
        const name = typeof key === 'function' ? key(...args) : argumentKey(key, args)
        return await reader.get(keyOf(isPromise(name) ? await name : name), () => fn(...args), options, scope) as never
      }
    },
    async writeThrough (name, value, write, given = {}) {
      const { invalidates = [], ...options } = checkOptions(given)
      const plan = scope.planOf(options)
      return await writer.write({
        key: keyOf(name),
        value,
        writer: checkFunction(write, 'writer'),
        plan,
        invalidates: checkTags(invalidates, 'invalidates')
      })
    },
    writeBehind: (name, options) =>
      writeBehinds.writeBehind(name, options, given => openCachedWrites(cache, codec, scope, given)),
    withPrefix (name, defaults = {}) {
      const counts = cache.counters.of([...scope.prefixes, checkKey(name, 'prefix')].join(':'))
      return createDataCache(parts, scope.withPrefix(name, counts, checkOptions(defaults)))
    },
    invalidateTags: async tags => await cache.invalidate(checkTags(tags, 'tags', invalidArgumentError)),
    async invalidatePattern (glob) {
      const pattern = [...scope.prefixes.map(escapeGlob), checkGlob(glob)].join(':')
      const matches = compileGlob(pattern)
      return await cache.removeMatching(pattern, label => {
        const plain = plainLabel(label)
        return matches(label) || (plain !== label && matches(plain))
      })
    },
    clear: async () => await cache.invalidate(scope.tags.length === 0 ? [ALL_TAG] : scope.tags.slice(-1)),
    stats: () => cache.stats,
    writeBehindStats: writeBehinds.stats,
    storeStats: async () => await cache.run(() => cache.store.stats()),
    on: (event, listener) => cache.events.on(event, listener)
  }
}

function checkOptions<O extends object> (given: O): O {
  return typeof given === 'object' && given !== null ? given : fail('options', given, 'an object')
}

function checkKey (key: unknown, argument = 'key'): string {
  return typeof key === 'string' && key !== '' ? key : fail(argument, key, 'a string that is not empty')
}

function checkGlob (glob: unknown): string {
  if (typeof glob === 'string' && glob !== '' && glob.length <= MAX_GLOB_LENGTH) return glob
  return fail('glob', glob, `a string of 1 to ${MAX_GLOB_LENGTH} characters`)
}

function checkArray<T> (list: readonly T[], name: string): readonly T[] {
  return Array.isArray(list) ? list : fail(name, list, 'an array')
}

function checkFunction<F> (given: F, name: string): F {
  return typeof given === 'function' ? given : fail(name, given, 'a function')
}

function fail (name: string, given: unknown, allowed: string): never {
  throw invalidArgumentError('cache', name, given, allowed)
}
