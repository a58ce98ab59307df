import Fastify, { type FastifyInstance, type RouteHandlerMethod } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions, type RouteCacheOptions } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startCluster, startRedis, until } from '../helpers/index.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
let prefixes = 0
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** An app whose routes count how often their handlers ran. */
async function build (t: Test, connection?: RedisPluginOptions, options: CachePluginOptions = {}, config: RouteCacheOptions | boolean = true) {
  const app = Fastify()
  t.teardown(() => app.close())
  const runs = { count: 0, delay: 0 }
  if (connection) await app.register(redis, connection)
  await app.register(cache, options)
  app.get<{ Params: { id: string } }>('/items/:id', { config: { cache: config } }, async request => {
    const run = ++runs.count
    if (runs.delay > 0) await wait(runs.delay)
    return { id: request.params.id, run }
  })
  return { app, runs }
}

const ask = async (app: FastifyInstance, url: string, headers: Record<string, string> = {}) => {
  const response = await app.inject({ url, headers })
  return { status: response.statusCode, cache: response.headers['x-cache'], headers: response.headers, body: response.body }
}

for (const store of ['memory', 'Redis']) {
  const promise = (name: string, test: (t: Test, connection: RedisPluginOptions | undefined) => Promise<unknown>) =>
    t.test(`${store}: ${name}`, t => test(t, store === 'Redis' ? { url: server.url, prefix: `c${++prefixes}` } : undefined))

  promise('the second answer comes out of the cache, byte for byte, with its headers and age', async (t, connection) => {
    const { app, runs } = await build(t, connection)
    const miss = await ask(app, '/items/1')
    await until('it is stored', () => app.cache.stats().stored === 1)
    const hit = await ask(app, '/items/1')
    t.same([miss.cache, hit.cache, runs.count], ['MISS', 'HIT', 1])
    t.equal(hit.body, miss.body)
    t.match(hit.headers, { 'content-type': 'application/json; charset=utf-8', age: /^\d+$/, etag: miss.headers.etag })
    t.equal((await ask(app, '/items/2')).cache, 'MISS')
    t.equal((await ask(app, '/items/1?q=1')).cache, 'MISS')
  })

  promise('HEAD and If-None-Match are answered out of it', async (t, connection) => {
    const { app, runs } = await build(t, connection)
    const { headers, body } = await ask(app, '/items/1')
    await until('it is stored', () => app.cache.stats().stored === 1)
    const head = await app.inject({ method: 'HEAD', url: '/items/1' })
    t.equal(head.body, '')
    t.match(head.headers, { 'x-cache': 'HIT', 'content-length': String(body.length) })
    const unchanged = await ask(app, '/items/1', { 'if-none-match': String(headers.etag) })
    t.same([unchanged.status, unchanged.body, unchanged.cache, runs.count], [304, '', 'HIT', 1])
  })

  promise('100 requests at once for a cold key run the handler once', async (t, connection) => {
    const { app, runs } = await build(t, connection)
    runs.delay = 30
    const answers = await Promise.all(Array.from({ length: 100 }, () => ask(app, '/items/1')))
    t.equal(runs.count, 1)
    t.equal(new Set(answers.map(answer => answer.body)).size, 1)
  })

  promise('a stale answer is given at once while one request makes it anew', async (t, connection) => {
    const { app, runs } = await build(t, connection, { ttl: 200, staleWhileRevalidate: '1 minute' })
    await ask(app, '/items/1')
    await wait(220)
    runs.delay = 50
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(app, '/items/1')))
    t.equal(answers.filter(answer => answer.cache === 'STALE').length, 20)
    await until('it is made anew', async () => runs.count === 2)
    runs.delay = 0
    await until('it is fresh', async () => (await ask(app, '/items/1')).cache === 'HIT')
  })

  promise('a stale answer that only somebody may see is made anew by a request of somebody\'s', async (t, connection) => {
    const { app } = await build(t, connection)
    let runs = 0
    app.get('/members', {
      config: { cache: { ttl: 50, staleWhileRevalidate: '1 minute' } },
      onRequest: async (request, reply) => { if (request.headers['x-member'] !== 'yes') return reply.code(401).send('who are you?') }
    }, async () => ({ runs: ++runs }))
    const member = async () => (await app.inject({ url: '/members', headers: { 'x-member': 'yes' } })).headers['x-cache']
    t.equal(await member(), 'MISS')
    await until('it is stale', async () => await member() === 'STALE')
    await until('it is made anew', async () => { await member(); return runs === 2 })
    t.equal((await app.inject('/members')).statusCode, 401)
  })

  promise('of several who set a value each is heard, and what was computed before is not put over it', async (t, connection) => {
    const { app } = await build(t, connection)
    let finish = (_value: string): void => {}
    const computed = app.cache.getOrSet('k', () => new Promise<string>(resolve => { finish = resolve }))
    await wait(30)
    await app.cache.set('k', 'set')
    finish('computed')
    t.equal(await computed, 'computed')
    await wait(20)
    t.equal(await app.cache.get('k'), 'set')
    const all = Array.from({ length: 40 }, (_, i) => `v${i}`)
    await Promise.all(all.map(async value => { await app.cache.set('k', value) }))
    t.ok(all.includes(await app.cache.get('k') ?? ''))
    await t.rejects(app.cache.set('k', undefined), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION' })
  })

  promise('a tag that is invalidated takes its answers and values with it, and no others', async (t, connection) => {
    const { app } = await build(t, connection, {}, { ttl: '1m', tags: request => [`item:${request.params.id}`, 'items'] })
    app.put<{ Params: { id: string } }>('/items/:id', { config: { cache: { invalidates: request => [`item:${request.params.id}`] } } }, async () => 'changed')
    app.put('/fail', { config: { cache: { invalidates: ['items'] } } }, async (_request, reply) => reply.code(400).send('no'))
    for (const id of ['1', '2']) await ask(app, `/items/${id}`)
    await app.cache.set('value', 5, { tags: ['items'] })
    await until('they are stored', () => app.cache.stats().stored === 3)
    await app.inject({ method: 'PUT', url: '/fail' })
    t.equal((await ask(app, '/items/1')).cache, 'HIT', 'a failed write invalidates nothing')
    await app.inject({ method: 'PUT', url: '/items/1' })
    t.equal((await ask(app, '/items/1')).cache, 'MISS')
    t.equal((await ask(app, '/items/2')).cache, 'HIT')
    await app.cache.invalidateTags(['items'])
    t.equal((await ask(app, '/items/2')).cache, 'MISS')
    t.equal(await app.cache.get('value'), undefined)
  })

  promise('what was begun before an invalidation is never served after it', async (t, connection) => {
    const { app, runs } = await build(t, connection, {}, { ttl: '1m', tags: ['items'] })
    runs.delay = 40
    const slow = ask(app, '/items/1')
    await until('the handler runs', () => runs.count === 1)
    await app.cache.invalidateTags(['items'])
    await slow
    await wait(10)
    t.equal((await ask(app, '/items/1')).cache, 'MISS')
  })

  promise('tags that the handler names work as well, also when they are invalidated meanwhile', async (t, connection) => {
    const { app } = await build(t, connection)
    let version = 1
    app.get('/late', { config: { cache: true } }, async (_request, reply) => {
      const body = { version }
      await wait(30)
      reply.cacheTags('late')
      return body
    })
    const slow = ask(app, '/late')
    await wait(10)
    version = 2
    await app.cache.invalidateTags(['late'])
    await slow
    t.equal((await ask(app, '/late')).body, '{"version":2}')
    // The tag changed less than the margin for clocks ago, so it may take a moment until answers are stored again.
    await until('it is stored', async () => (await ask(app, '/late')).cache === 'HIT')
    await app.cache.invalidateTags(['late'])
    t.equal((await ask(app, '/late')).cache, 'MISS')
  })

  promise('clear() empties all', async (t, connection) => {
    const { app } = await build(t, connection)
    await ask(app, '/items/1')
    await until('it is stored', async () => (await ask(app, '/items/1')).cache === 'HIT')
    await app.cache.clear()
    t.equal((await ask(app, '/items/1')).cache, 'MISS')
  })

  promise('what is not for everybody is not stored', async (t, connection) => {
    const { app } = await build(t, connection)
    const handlers: Record<string, RouteHandlerMethod> = {
      '/cookie': (_request, reply) => { reply.header('set-cookie', 'a=b').send('x') },
      '/no-store': (_request, reply) => { reply.header('cache-control', 'no-store').send('x') },
      '/private': (_request, reply) => { reply.header('cache-control', 'max-age=60, private').send('x') },
      '/vary': (_request, reply) => { reply.header('vary', 'accept, *').send('x') },
      '/created': (_request, reply) => { reply.code(201).send('x') },
      '/missing': (_request, reply) => { reply.code(404).send('x') },
      '/broken': () => { throw new Error('broken') },
      '/no-cache': (_request, reply) => { reply.noCache().send('x') },
      '/large': (_request, reply) => { reply.send('x'.repeat(2 * 1024 ** 2)) },
      '/session': (request, reply) => { Object.assign(request, { session: { cookie: {}, userId: 'ann' } }); reply.send('x') }
    }
    for (const [url, handler] of Object.entries(handlers)) app.get(url, { config: { cache: true } }, handler)
    for (const url of Object.keys(handlers)) {
      await ask(app, url)
      await wait(2)
      t.not((await ask(app, url)).cache, 'HIT', url)
    }
    t.equal(app.cache.stats().stored, 0)
  })

  promise('requests that carry an identity or a body are neither answered out of it nor stored', async (t, connection) => {
    const { app, runs } = await build(t, connection)
    await ask(app, '/items/1')
    await until('it is stored', async () => (await ask(app, '/items/1')).cache === 'HIT')
    t.equal((await ask(app, '/items/1', { authorization: 'Bearer x' })).cache, 'BYPASS')
    const withBody = await app.inject({ method: 'GET', url: '/items/1', payload: '{"a":1}', headers: { 'content-type': 'application/json', 'content-length': '7' } })
    t.equal(withBody.headers['x-cache'], 'BYPASS')
    t.equal(runs.count, 3)
  })

  promise('private answers are kept a user, and for nobody they are not kept', async (t, connection) => {
    const { app } = await build(t, connection)
    app.get('/me', { config: { cache: { private: request => request.headers['x-user'] as string | undefined } } }, async request => ({ me: request.headers['x-user'] ?? 'nobody' }))
    const me = (user?: string) => ask(app, '/me', user === undefined ? {} : { 'x-user': user, authorization: 'Bearer x' })
    await me('ann')
    await until('it is stored', async () => (await me('ann')).cache === 'HIT')
    t.match(await me('bob'), { cache: 'MISS', body: '{"me":"bob"}' })
    t.match(await me(), { cache: 'BYPASS', body: '{"me":"nobody"}' })
    t.match(await me('ann'), { cache: 'HIT', body: '{"me":"ann"}' })
  })

  promise('what a route says is public is one answer for all, also who is logged in or authorized', async (t, connection) => {
    const { app } = await build(t, connection)
    app.decorateRequest('session', null as never)
    app.addHook('onRequest', async request => { Reflect.set(request, 'session', { user: request.headers['x-user'] }) })
    let runs = 0
    app.get('/shared', { config: { cache: { public: true } } }, async () => ({ run: ++runs }))
    app.get('/own', { config: { cache: {} } }, async () => ({ run: ++runs }))
    const send = (path: string, user: string) => ask(app, path, { 'x-user': user, authorization: `Bearer ${user}` })
    t.match(await send('/shared', 'ann'), { cache: 'MISS', body: '{"run":1}' })
    await until('it is stored', async () => (await send('/shared', 'bob')).cache === 'HIT')
    t.match(await send('/shared', 'bob'), { cache: 'HIT', body: '{"run":1}' })
    t.match(await send('/own', 'ann'), { cache: 'BYPASS' }, 'unless a route says so')
  })

  promise('headers named by vary are a part of the key', async (t, connection) => {
    const { app } = await build(t, connection, {}, { vary: ['Accept-Language'] })
    await ask(app, '/items/1', { 'accept-language': 'de' })
    t.equal((await ask(app, '/items/1', { 'accept-language': 'fr' })).cache, 'MISS')
    await until('it is stored', async () => (await ask(app, '/items/1', { 'accept-language': 'de' })).cache === 'HIT')
  })

  promise('getOrSet runs its factory once for 50 callers, and again after an invalidation', async (t, connection) => {
    const { app } = await build(t, connection)
    let runs = 0
    const get = () => app.cache.getOrSet('k', async () => { runs++; await wait(20); return { runs } }, { ttl: '1m', tags: ['t'] })
    const values = await Promise.all(Array.from({ length: 50 }, get))
    t.equal(runs, 1)
    t.same(values[49], { runs: 1 })
    await app.cache.invalidateTags(['t'])
    t.same(await get(), { runs: 2 })
    t.equal(await app.cache.delete('k'), true)
    t.equal(await app.cache.get('k'), undefined)
  })

  promise('a factory that throws strands nobody', async (t, connection) => {
    const { app } = await build(t, connection)
    const results = await Promise.allSettled(Array.from({ length: 10 }, () => app.cache.getOrSet('k', async () => { await wait(10); throw new Error('no') })))
    t.ok(results.every(result => result.status === 'rejected'))
    t.equal(await app.cache.getOrSet('k', () => 'yes'), 'yes')
  })

  promise('who may not see an answer is turned away before the cache is asked', async (t, connection) => {
    const { app } = await build(t, connection)
    app.get('/guarded', {
      config: { cache: true },
      preHandler: async (request, reply) => { if (request.headers['x-key'] !== 'k') await reply.code(401).send('no') }
    }, async () => 'secret')
    await ask(app, '/guarded', { 'x-key': 'k' })
    await until('it is stored', async () => (await ask(app, '/guarded', { 'x-key': 'k' })).cache === 'HIT')
    t.match(await ask(app, '/guarded'), { status: 401, body: 'no' })
  })
}

t.test('two instances share answers and invalidations: of 200 random interleavings none serves what was invalidated', async t => {
  const connection = { url: server.url, prefix: 'pair' }
  let version = 0
  const apps = await Promise.all([0, 1].map(async () => {
    const { app } = await build(t, connection, { l1: false })
    app.get('/v', { config: { cache: { ttl: '1m', tags: ['v'] } } }, async () => {
      const read = version
      await wait(Math.random() * 4)
      return { version: read }
    })
    return app
  }))
  let stale = 0
  for (let i = 0; i < 200; i++) {
    const before = [0, 1, 0].map(n => ask(apps[n] as FastifyInstance, '/v'))
    await wait(Math.random() * 4)
    const written = ++version
    await apps[i % 2]?.cache.invalidateTags(['v'])
    const after = await Promise.all([0, 1].map(n => ask(apps[n] as FastifyInstance, '/v')))
    for (const { body } of after) if (JSON.parse(body).version < written) stale++
    await Promise.all(before)
    for (const app of apps) if (JSON.parse((await ask(app, '/v')).body).version < written) stale++
  }
  t.equal(stale, 0)
})

t.test('without Redis the handler answers, in time, and never a 500', async t => {
  const own = await startRedis()
  const { app, runs } = await build(t, { url: own.url }, { timeout: 60 })
  await ask(app, '/items/1')
  own.pause()
  const sinceStart = stopwatch()
  const answers = await Promise.all(Array.from({ length: 30 }, () => ask(app, '/items/1')))
  t.ok(sinceStart() < 1000)
  t.ok(answers.every(answer => answer.status === 200))
  own.resume()
  await until('the cache is used again', async () => (await ask(app, '/items/1')).cache === 'HIT')
  t.ok(runs.count >= 2)
})

t.test('it works on a Cluster', async t => {
  const cluster = await startCluster()
  const { app } = await build(t, { cluster: { nodes: cluster.startupNodes } }, {}, { tags: ['all'] })
  for (let i = 0; i < 10; i++) await ask(app, `/items/${i}`)
  await until('they are stored', () => app.cache.stats().stored === 10)
  for (let i = 0; i < 10; i++) t.equal((await ask(app, `/items/${i}`)).cache, 'HIT')
  await app.cache.invalidateTags(['all'])
  for (let i = 0; i < 10; i++) t.equal((await ask(app, `/items/${i}`)).cache, 'MISS')
})

t.test('every key has a TTL, and a damaged entry is a miss and is replaced', async t => {
  const own = await startRedis()
  const { app } = await build(t, { url: own.url, prefix: 'x' }, {}, { tags: ['*', 'a:b', '{x}'] })
  await ask(app, '/items/1')
  await until('it is stored', async () => (await ask(app, '/items/1')).cache === 'HIT')
  const client = own.client()
  await until('nobody is making anything', async () => (await client.keys('*:claim:*')).length === 0)
  const keys = await client.keys('*')
  for (const key of keys) {
    t.match(key, /^x:cache:(entry|tag):[\w#:-]+$/)
    t.ok(await client.pttl(key) > 0)
  }
  for (const key of keys.filter(key => key.startsWith('x:cache:entry'))) await client.set(key, 'damaged')
  t.equal((await ask(app, '/items/1')).cache, 'MISS')
  await until('it is stored', async () => (await ask(app, '/items/1')).cache === 'HIT')
})

t.test('options that cannot be used fail at registration, of the plugin and of a route', async t => {
  const code = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'
  for (const options of [{ ttl: 'soon' }, { staleWhileRevalidate: -1 }, { maxEntrySize: 0 }, { maxSize: 5 }, { redis: {} }, { tttl: 1 }]) {
    await t.rejects(async () => { await build(t, undefined, options as CachePluginOptions) }, { code }, JSON.stringify(options))
  }
  const { app } = await build(t)
  for (const config of [5, 'on', { ttl: 'x' }, { tags: 'a' }, { tags: [''] }, { vary: 'accept' }, { private: true }, { public: 1 }, { public: true, private: () => 'a' }, { invalidates: {} }, { tll: 1 }]) {
    t.throws(() => app.get('/wrong', { config: { cache: config as never } }, async () => ''), { code }, JSON.stringify(config))
  }
  await t.rejects(app.cache.getOrSet('', () => 1), { code })
})
