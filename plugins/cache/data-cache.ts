import { EventEmitter } from 'node:events'
import type { Duration } from '../shared/duration.js'
import { invalidOptionError } from '../shared/errors.js'
import { readOptions } from '../shared/options.js'
import type { CacheCore, CacheStats, Lookup } from './core.js'
import { StoreUnavailableError } from './errors.js'
import { isValue, type Entry, type ValueMeta } from './entry.js'
import { ANY_GENERATION } from './frame.js'
import { compileGlob } from './glob.js'
import { parseJson } from './json.js'
import { dataKey, type CacheKey } from './key.js'
import { EVERYTHING, MAX_LIFE_MS, PATTERNS } from './store.js'
import { MOST_LOOKS, type Fill, type Works } from './works.js'

export interface ValueOptions {
  /** For how long the value is fresh. @default the plugin's ttl */
  ttl?: Duration
  /** For how long after that it may be used while it is made anew. @default the plugin's */
  staleWhileRevalidate?: Duration
  /** By which the value can be invalidated. */
  tags?: readonly string[]
}

export interface CacheEvents {
  /** Something was invalidated by this process: tags, a key, or all that a pattern matches. */
  invalidate: [{ tags?: readonly string[], key?: string, pattern?: string }]
}

/** `fastify.cache`: for anything a function returns. Values are JSON. */
export interface DataCache {
  get <T>(key: string): Promise<T | undefined>
  /** @throws `FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE` where it could not be stored: what was there is still there */
  set (key: string, value: unknown, options?: ValueOptions): Promise<void>
  /** @returns whether there was one */
  delete (key: string): Promise<boolean>
  /** The value of the key, or what `factory` makes; on all instances it runs once at a time. */
  getOrSet <T>(key: string, factory: () => T | Promise<T>, options?: ValueOptions): Promise<T>
  /** Makes all answers and values with one of these tags invalid: none that was begun before is served after it returns. */
  invalidateTags (tags: readonly string[]): Promise<void>
  /**
   * Removes answers whose path and query, and values whose key, match: `*` is any text, `?` any one character, `[a-z]` one
   * of these, and a backslash takes the meaning of what follows it. It looks at every entry, in batches.
   *
   * @returns how many there were
   */
  invalidatePattern (glob: string): Promise<number>
  /** Makes everything invalid. */
  clear (): Promise<void>
  stats (): CacheStats
  on <E extends keyof CacheEvents>(event: E, listener: (...args: CacheEvents[E]) => void): void
}

interface Lifetime {
  ttl: number
  staleWhileRevalidate: number
}

export function createDataCache (core: CacheCore, works: Works, defaults: Lifetime): DataCache {
  const events = new EventEmitter<CacheEvents>()

  function entryOf (key: CacheKey, json: string, { ttl, staleWhileRevalidate }: Lifetime, startedAt: number, versions: Readonly<Record<string, string>>): Entry<ValueMeta> {
    const { [PATTERNS]: _, ...tags } = versions
    return { kind: 'value', label: key.label, meta: { fresh: ttl, staleWhileRevalidate }, body: Buffer.from(json), storedAt: startedAt, life: ttl + staleWhileRevalidate, tags }
  }

  async function make <T> (fill: Fill, factory: () => T | Promise<T>, lifetime: Lifetime): Promise<T> {
    let value: T
    try {
      value = await factory()
    } catch (error) {
      fill.finish(undefined)
      throw error
    }
    const json: string | undefined = JSON.stringify(value)
    if (json === undefined) fill.finish(undefined)
    else await fill.store(entryOf(fill.lookup.key, json, lifetime, fill.startedAt, fill.versions ?? {}))
    return value
  }

  async function refresh <T> (lookup: Lookup, factory: () => T | Promise<T>, lifetime: Lifetime): Promise<void> {
    const fill = await works.tryEnter(lookup)
    if (fill !== undefined) await make(fill, factory, lifetime)
  }

  function valueOf <T> (entry: Entry | undefined): { value: T, isStale: boolean } | undefined {
    if (!isValue(entry)) return undefined
    const value = parseJson(entry.body.toString('utf8')) as T | undefined
    if (value === undefined) return undefined
    const isStale = core.now() >= entry.storedAt + entry.meta.fresh
    core.counts[isStale ? 'stale' : 'hits']++
    return { value, isStale }
  }

  async function read <T> (name: string): Promise<T | undefined> {
    const key = dataKey(checkKey(name))
    const found = valueOf<T>(core.peek(key)) ?? valueOf<T>((await core.find(key, [])).entry)
    if (found === undefined) core.counts.misses++
    return found?.value
  }

  async function getOrSet <T> (name: string, factory: () => T | Promise<T>, options: ValueOptions = {}): Promise<T> {
    const lifetime = resolveLifetime(options, defaults)
    const { tags = [] } = options
    const key = dataKey(checkKey(name))
    const near = valueOf<T>(core.peek(key))
    if (near?.isStale === false) {
      core.counts.l1Hits++
      return near.value
    }
    for (let looks = 1; ; looks++) {
      const lookup = await core.find(key, tags)
      const found = valueOf<T>(lookup.entry)
      // A refresh that fails leaves the stale value; the next reader tries again.
      if (found?.isStale) refresh(lookup, factory, lifetime).catch(() => {})
      if (found !== undefined) return found.value
      core.counts.misses++
      const turn = await works.enter(lookup)
      if (turn === 'again') {
        if (looks < MOST_LOOKS) continue
        return await factory()
      }
      if ('fill' in turn) return await make(turn.fill, factory, lifetime)
      const made = valueOf<T>(turn.entry)
      return made === undefined ? await factory() : made.value
    }
  }

  /** Whatever is there, and whoever is making something else. */
  async function setValue (key: CacheKey, json: string, lifetime: Lifetime, tags: readonly string[]): Promise<void> {
    const { mark } = core
    const begun = await core.begin(`${key.id}.set`, 'set', [EVERYTHING, PATTERNS, ...tags], 1)
    if (begun === undefined) throw new StoreUnavailableError()
    const { versions } = begun
    const lookup = { key, seen: { generation: ANY_GENERATION, versions }, mark }
    if (!await core.write(lookup, entryOf(key, json, lifetime, begun.now, versions), versions)) throw new StoreUnavailableError()
    await core.announce(key)
  }

  async function invalidate (tags: readonly string[]): Promise<void> {
    await core.invalidate(checkTags(tags))
    events.emit('invalidate', { tags })
  }

  return {
    get: read,
    getOrSet,
    async set (name, value, options = {}) {
      const lifetime = resolveLifetime(options, defaults)
      const json: string | undefined = JSON.stringify(value)
      if (json === undefined) throw invalidOptionError('cache', 'value', value, 'what JSON can tell')
      await setValue(dataKey(checkKey(name)), json, lifetime, options.tags ?? [])
    },
    async delete (name) {
      const removed = await core.remove([dataKey(checkKey(name))])
      events.emit('invalidate', { key: name })
      return removed
    },
    invalidateTags: invalidate,
    async invalidatePattern (glob) {
      const matches = compileGlob(checkKey(glob))
      const count = await core.removeMatching(matches)
      events.emit('invalidate', { pattern: glob })
      return count
    },
    clear: () => invalidate([EVERYTHING]),
    stats: () => core.stats,
    on (event, listener) { events.on(event, listener as never) }
  }
}

function resolveLifetime (given: ValueOptions, fallback: Lifetime): Lifetime {
  const read = readOptions('cache', given)
  checkTags(given.tags ?? [])
  return {
    ttl: read.duration('ttl', fallback.ttl, { min: 1, max: MAX_LIFE_MS / 2 }),
    staleWhileRevalidate: read.duration('staleWhileRevalidate', fallback.staleWhileRevalidate, { max: MAX_LIFE_MS / 2 })
  }
}

function checkKey (key: unknown): string {
  if (typeof key === 'string' && key !== '') return key
  throw invalidOptionError('cache', 'key', key, 'a string that is not empty')
}

function checkTags (tags: unknown): readonly string[] {
  if (Array.isArray(tags) && tags.every(tag => typeof tag === 'string' && tag !== '')) return tags
  throw invalidOptionError('cache', 'tags', tags, 'a list of strings that are not empty')
}
