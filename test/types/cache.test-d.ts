import Fastify from 'fastify'
import { cache } from 'fastify-redis-suite'
import type { CachePluginOptions, CacheStats, DataCache, Jsonify, RouteCacheOptions, WriteBehind } from 'fastify-redis-suite/cache'
import { expectAssignable, expectError, expectNotAssignable, expectType } from 'tsd'

const app = Fastify()

app.register(cache)
app.register(cache, { ttl: '30s', staleWhileRevalidate: '5m', staleIfError: 1000, redis: false, tiers: { short: '10s' }, l1: false, values: { ttl: '1h' } })
expectError(app.register(cache, { tll: '30s' }))
expectError(app.register(cache, { onStoreError: 'closed' }))
// Options of routes only.
expectNotAssignable<CachePluginOptions>({ tags: ['products'] })

// A route's own config.
app.get<{ Params: { id: string } }>('/products/:id', {
  config: { cache: { ttl: '5m', tags: request => [`product:${request.params.id}`], key: { query: { include: ['page'] } } } }
}, async request => request.params.id)
app.get('/never', { config: { cache: false } }, async () => '')
expectError(app.get('/wrong', { config: { cache: { ttl: ['1m'] } } }, async () => ''))
expectNotAssignable<RouteCacheOptions>({ tags: 'product' })
expectAssignable<RouteCacheOptions>({ tags: [1, 'a'], invalidates: async () => [2n] })
expectNotAssignable<RouteCacheOptions>({ key: { query: { only: ['page'] } } })
expectAssignable<RouteCacheOptions>({ ttl: 'headers', private: request => request.ip })
expectAssignable<RouteCacheOptions>({ private: async request => request.headers.authorization ?? null })
expectAssignable<RouteCacheOptions>({ private: () => 1n })
expectAssignable<RouteCacheOptions>({ unkeyed: 'bypass', harmless: ['x-theme', 'cookie:theme', '!user-agent'], key: { cookies: ['lang'] } })
expectNotAssignable<RouteCacheOptions>({ harmless: 'x-theme' })
expectNotAssignable<RouteCacheOptions>({ unkeyed: true })
expectAssignable<RouteCacheOptions>({ private: request => request.hostname !== '' && request.ip })
expectNotAssignable<RouteCacheOptions>({ private: () => ({ id: 1 }) })
expectNotAssignable<RouteCacheOptions>({ private: () => true })

app.get('/reply', async (_request, reply) => reply.cacheTags('a', 2).noCache().send(''))
app.get('/wrong-reply', async (_request, reply) => { expectError(reply.cacheTags(true)) })

// Data.
expectType<DataCache>(app.cache)
expectType<CacheStats>(app.cache.stats())
expectType<unknown>(await app.cache.get('k'))
expectType<number | undefined>(await app.cache.get<number>('k'))
expectType<Array<number | undefined>>(await app.cache.getMany<number>(['k']))
expectType<string | null>(await app.cache.getOrSet('k', async () => null as string | null))
expectType<{ id: number }>(await app.cache.getOrSet('k', ({ signal, stale }) => {
  expectType<AbortSignal>(signal)
  expectType<{ id: number } | undefined>(stale)
  return { id: 1 }
}, { ttl: value => { expectType<{ id: number }>(value); return '1m' }, tags: ({ id }) => [String(id)] }))
expectError(app.cache.getOrSet('k', 'value'))
expectError(app.cache.getOrSet('k', () => 1, { tll: '1m' }))
expectError(app.cache.invalidateTags('products'))

expectType<(a: number, b: number) => Promise<number>>(app.cache.wrap(async (a: number, b: number) => a + b, { key: 'add', ttl: '1m' }))
app.cache.wrap(({ id }: { id: string }) => id, { key: ({ id }) => id })
expectError(app.cache.wrap((id: string) => id, { ttl: '1m' }))

// What was JSON comes back as JSON.
interface Order { id: number, at: Date, note?: string, lines: Array<{ price: number, due: Date | null }>, total (): number, tags: Map<string, string> }
const order = await app.cache.getOrSet('order', () => ({}) as Order, { ttl: value => { expectType<Order>(value); return '1m' } })
expectType<string>(order.at)
expectType<string | undefined>(order.note)
expectType<Array<{ price: number, due: string | null }>>(order.lines)
expectType<never>(order.tags)
expectError(order.total())
expectType<string | null>(await app.cache.getOrSet('date', async (): Promise<Date | null> => null))
expectType<Array<string | null>>(await app.cache.getOrSet('dates', () => [] as Array<Date | undefined>))
expectType<[string, number]>(await app.cache.getOrSet('pair', () => [new Date(), 1] as [Date, number]))
expectType<string>(await app.cache.getOrSet('url', () => new URL('http://a/')))
expectType<unknown>(await app.cache.getOrSet('unknown', () => JSON.parse('1') as unknown))
expectType<'a' | 'b'>(await app.cache.getOrSet('literal', () => 'a' as 'a' | 'b'))
expectType<string | undefined>((await app.cache.get<Order>('order'))?.at)
expectType<Array<string | undefined>>(await app.cache.getMany<Date>(['a', 'b']))
expectType<string>((await app.cache.wrap((id: string) => ({ id, at: new Date() }), { key: 'dated' })('a')).at)
app.cache.getOrSet<Order>('order', ({ stale }) => { expectType<string | undefined>(stale?.at); return {} as Order })
// The writer's own value is returned.
expectType<{ at: Date }>(await app.cache.writeThrough('order', { at: new Date() }, async () => {}))
// Plain data are what they were.
interface Product { id: string, price: number, tags: string[], more?: Record<string, unknown> }
expectAssignable<Product>(await app.cache.getOrSet('product', () => ({}) as Product))
expectType<{ a: string }>({} as Jsonify<{ a: Date, b (): void }>)

expectType<{ id: number }>(await app.cache.writeThrough('k', { id: 1 }, async () => {}))
// What a driver returns is not what is to be cached.
expectError(app.cache.writeThrough('k', { id: 1 }, async () => ({ rowCount: 1 })))

const behind = app.cache.writeBehind<{ at: Date }>('scores', {
  write: batch => { for (const { value } of batch) expectType<{ at: string }>(value) }
})
expectType<WriteBehind<{ at: Date }>>(behind)
expectError(behind.add('k', { x: 1 }))
expectError(app.cache.writeBehind('scores', { batch: 10 }))
app.cache.withPrefix('score').writeBehind<number>('cached', { write: () => {}, cache: true })
app.cache.writeBehind<{ at: Date }>('cached', { write: () => {}, cache: { ttl: ({ at }) => at.getTime(), tags: ({ at }) => [at.getTime()] } })
expectError(app.cache.writeBehind('cached', { write: () => {}, cache: { tll: '1m' } }))
expectError(app.cache.writeBehind('cached', { write: () => {}, cache: 'yes' }))

expectType<() => void>(app.cache.on('hit', () => {}))
expectType<() => void>(app.cache.on('hit', async () => {}))
app.get('/async', { config: { cache: { ttl: async () => '1m' } } }, async () => '')
expectType<Promise<number>>(app.cache.wrap((id: string) => id.length, { key: async id => id })('a'))
expectError(app.cache.on('hits', () => {}))
