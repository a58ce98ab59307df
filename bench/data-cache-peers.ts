// The data caches of `bench/data-cache.ts` behind one interface, each set up as its documentation recommends: TTL of 10
// minutes, JSON.
import KeyvRedis from '@keyv/redis'
import { createCache } from 'async-cache-dedupe'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis'
import { Cacheable } from 'cacheable'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { compiled } from './frame/compiled.js'

export type Factory = () => Promise<unknown>

/**
  * - `tiers`: the library's memory in front of Redis
  * - `process`: memory alone, for a library that uses either memory or Redis
 * - `redis`: Redis alone
 */
export type Arrangement = 'tiers' | 'process' | 'redis'

export interface Peer {
  getOrSet (key: string, factory: Factory): Promise<unknown>
  put (key: string, value: unknown, tag: string): Promise<unknown>
  invalidate (tag: string): Promise<unknown>
  /** The text that identifies a key in Redis, if it is not the key itself. */
  idOf?: (key: string) => string
  close (): Promise<void>
}

type Open = (url: string, arrangement: Arrangement, hasTags: boolean) => Promise<Peer>

const SECONDS = 600
const TTL = '10m'

async function suite (url: string, arrangement: Arrangement, freeze = false): Promise<Peer> {
  const { cache, redis } = await compiled('index') as typeof import('../plugins/index.js')
  const { dataKey } = await compiled('cache/store/cache-key') as typeof import('../plugins/cache/store/cache-key.js')
  const app = Fastify()
  await app.register(redis, { url, prefix: 'bench' })
  await app.register(cache, { ttl: TTL, freeze, ...(arrangement === 'redis' && { l1: false }) })
  await app.ready()
  return {
    getOrSet: (key, factory) => app.cache.getOrSet(key, factory),
    put: (key, value, tag) => app.cache.set(key, value, { tags: [tag] }),
    invalidate: tag => app.cache.invalidateTags([tag]),
    idOf: key => dataKey(key).id,
    close: () => app.close()
  }
}

async function bentocache (url: string, arrangement: Arrangement): Promise<Peer> {
  const { hostname: host, port } = new URL(url)
  const connection = { host, port: Number(port), enableAutoPipelining: true }
  const store = bentostore().useL2Layer(redisDriver({ connection }))
  if (arrangement !== 'redis') {
    store.useL1Layer(memoryDriver({ maxSize: '64mb', maxItems: 100_000 })).useBus(redisBusDriver({ connection }))
  }
  const bento = new BentoCache({ default: 'bench', ttl: TTL, stores: { bench: store } })
  return {
    getOrSet: (key, factory) => bento.getOrSet({ key, factory }),
    put: (key, value, tag) => bento.set({ key, value, tags: [tag] }),
    invalidate: tag => bento.deleteByTag({ tags: [tag] }),
    close: () => bento.disconnectAll()
  }
}

async function dedupe (url: string, arrangement: Arrangement, hasTags: boolean): Promise<Peer> {
  const client = new Redis(url, { enableAutoPipelining: true })
  const fail = (error: unknown) => { throw error }
  const log = {
    debug () {}, warn () {}, error: ({ msg, err }: { msg: string, err?: Error }) => console.error(msg, err?.message)
  }
  const cache = createCache({
    ttl: SECONDS,
    onError: fail,
    storage: arrangement === 'process'
      ? { type: 'memory', options: { size: 100_000 } }
      : { type: 'redis', options: { client, log, ...(hasTags && { invalidation: { referencesTTL: SECONDS } }) } }
  }).define('value', { serialize: ({ key }: { key: string }) => key },
    async ({ factory }: { key: string, factory: Factory }) => await factory())
  return {
    getOrSet: (key, factory) => cache.value({ key, factory }),
    put: (key, value, tag) => cache.set('value', `value~${key}`, value, SECONDS, [tag]),
    invalidate: tag => cache.invalidateAll(tag),
    async close () { client.disconnect() }
  }
}

async function cacheable (url: string, arrangement: Arrangement, hasTags: boolean): Promise<Peer> {
  const store = new KeyvRedis(url)
  const cache = new Cacheable({
    ttl: TTL, tags: hasTags, ...arrangement === 'redis' ? { primary: store } : { secondary: store }
  })
  return {
    getOrSet: (key, factory) => cache.getOrSet(key, factory),
    put: (key, value, tag) => cache.set(key, value, { tags: [tag] }),
    invalidate: tag => cache.tags.invalidateTag(tag),
    close: () => cache.disconnect()
  }
}

export const PEERS: Readonly<Record<string, Open>> = {
  'this suite': (url, arrangement) => suite(url, arrangement),
  'this suite, freeze': (url, arrangement) => suite(url, arrangement, true),
  bentocache,
  'async-cache-dedupe': dedupe,
  cacheable
}
