import type { Duration } from '../shared/duration.js'
import { invalidOptionError } from '../shared/errors.js'
import type { Coalescer } from './coalesce.js'
import type { CacheCore, CacheStats } from './core.js'
import { dataKey } from './key.js'
import { resolveLifetime, type Lifetime } from './options.js'
import { EVERYTHING } from './store.js'

export interface ValueOptions {
  /** For how long the value is fresh. @default the plugin's ttl */
  ttl?: Duration
  /** For how long after that it may be used while it is made anew. @default the plugin's */
  staleWhileRevalidate?: Duration
  /** By which the value can be invalidated. */
  tags?: readonly string[]
}

/** `fastify.cache`: for anything a function returns. Values are JSON. */
export interface DataCache {
  get <T>(key: string): Promise<T | undefined>
  set (key: string, value: unknown, options?: ValueOptions): Promise<void>
  /** @returns whether there was one */
  delete (key: string): Promise<boolean>
  /** The value of the key, or what `factory` makes; it runs once at a time in this process. */
  getOrSet <T>(key: string, factory: () => T | Promise<T>, options?: ValueOptions): Promise<T>
  /** Makes all answers and values with one of these tags invalid: none that was begun before is served after it returns. */
  invalidateTags (tags: readonly string[]): Promise<void>
  /** Makes everything invalid. */
  clear (): Promise<void>
  stats (): CacheStats
}

// A follower does not wait longer for the one before it.
const PATIENCE_MS = 5000

export function createDataCache (core: CacheCore, coalescer: Coalescer, defaults: Lifetime): DataCache {
  async function store (key: string, value: unknown, options: ValueOptions, versions: Record<string, string> | undefined, startedAt: number): Promise<void> {
    const json: string | undefined = JSON.stringify(value)
    if (versions === undefined || json === undefined) return
    await core.write(key, { body: Buffer.from(json), meta: {}, storedAt: startedAt, ...resolveLifetime(options, defaults), tags: versions })
  }

  async function make <T> (key: string, factory: () => T | Promise<T>, options: ValueOptions): Promise<T> {
    const startedAt = Date.now()
    const versions = await core.versions(options.tags ?? [])
    const value = await factory()
    await store(key, value, options, versions, startedAt)
    return value
  }

  async function refresh <T> (key: string, factory: () => T | Promise<T>, options: ValueOptions): Promise<void> {
    if (await core.claimRefresh(key)) await make(key, factory, options)
  }

  return {
    async get <T>(name: string) {
      const found = await core.read(dataKey(checkKey(name)))
      return found && parse<T>(found.entry.body)
    },
    async set (name, value, options = {}) {
      resolveLifetime(options, defaults)
      await store(dataKey(checkKey(name)), value, options, await core.versions(options.tags ?? []), Date.now())
    },
    delete: name => core.delete(dataKey(checkKey(name))),
    async getOrSet <T>(name: string, factory: () => T | Promise<T>, options: ValueOptions = {}) {
      resolveLifetime(options, defaults)
      const key = dataKey(checkKey(name))
      for (let followed = false; ; followed = true) {
        const found = await core.read(key)
        // A refresh that fails leaves the stale value; the next reader tries again.
        if (found?.freshness === 'stale') refresh(key, factory, options).catch(() => {})
        const value = found && parse<T>(found.entry.body)
        if (value !== undefined) return value
        if (followed) return await make(key, factory, options)
        const work = coalescer.enter(key, PATIENCE_MS)
        if ('end' in work) return await make(key, factory, options).finally(work.end)
        core.stats.coalesced++
        await work.wait
      }
    },
    invalidateTags: tags => core.invalidate(tags),
    clear: () => core.invalidate([EVERYTHING]),
    stats: () => ({ ...core.stats })
  }
}

function checkKey (key: unknown): string {
  if (typeof key === 'string' && key !== '') return key
  throw invalidOptionError('cache', 'key', key, 'a string that is not empty')
}

function parse <T> (body: Buffer): T | undefined {
  try {
    return JSON.parse(body.toString('utf8'))
  } catch {
    return undefined
  }
}
