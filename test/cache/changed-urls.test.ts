// RFC 9111 §4.4: a successful unsafe request invalidates every response of the URLs that it changes.
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { RouteCacheOptions } from '../../plugins/cache/index.js'
import { compilePattern } from '../../plugins/cache/http/path-tags.js'
import { canonicalPath } from '../../plugins/cache/store/path-tag.js'
import { ask, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'
import { advanceWhile, forEachStore, type StoreName } from '../helpers/index.js'

interface Case {
  /** The URL of the cached route, and of the route that writes. */
  reads: string
  writes: string
  get: string
  put: string
  server?: FastifyServerOptions
  location?: string
  contentLocation?: string
}

const router = (routerOptions: object): Case['server'] => ({ routerOptions })
const rewriteUrl: FastifyServerOptions['rewriteUrl'] = ({ url = '' }) => url.replace('/public', '')

const CHANGED: Record<string, Case> = {
  'the same route': { reads: '/p/:id', writes: '/p/:id', get: '/p/1', put: '/p/1' },
  'another name of the parameter': { reads: '/p/:id', writes: '/p/:name', get: '/p/1', put: '/p/1' },
  'a fixed URL beside a parameter': { reads: '/p/:id', writes: '/p/1', get: '/p/1', put: '/p/1' },
  'a wildcard': { reads: '/w/*', writes: '/w/:a/:b', get: '/w/a/b', put: '/w/a/b' },
  'a wildcard of all': { reads: '/*', writes: '/w/:a', get: '/w/a', put: '/w/a' },
  'a regular expression': { reads: '/n/:id(^\\d+$)', writes: '/n/:id', get: '/n/1', put: '/n/1' },
  'two parameters in one segment': { reads: '/f/:name.:ext', writes: '/f/*', get: '/f/a.png', put: '/f/a.png' },
  'an optional parameter': { reads: '/o/:id?', writes: '/o', get: '/o', put: '/o' },
  'a colon that is meant as it is': { reads: '/c/::x', writes: '/c/:id', get: '/c/:x', put: '/c/:x' },
  'a query': { reads: '/p/:id', writes: '/p/:id', get: '/p/1?page=2', put: '/p/1' },
  'an encoded character': { reads: '/p/:id', writes: '/p/:name', get: '/p/%79', put: '/p/y' },
  'an encoded character that is written to': { reads: '/p/:id', writes: '/p/:name', get: '/p/y', put: '/p/%79' },
  'a letter that is no ASCII': { reads: '/p/:id', writes: '/p/:name', get: '/p/%C3%A9', put: '/p/%c3%a9' },
  'a trailing slash': { reads: '/p/:id', writes: '/p/:name', get: '/p/1/', put: '/p/1', server: router({ ignoreTrailingSlash: true }) },
  'a trailing slash that is written to': { reads: '/p/:id', writes: '/p/:name', get: '/p/1', put: '/p/1/', server: router({ ignoreTrailingSlash: true }) },
  'duplicate slashes': { reads: '/p/:id', writes: '/p/:name', get: '//p//1', put: '/p/1', server: router({ ignoreDuplicateSlashes: true }) },
  'another case': { reads: '/p/:id', writes: '/p/:name', get: '/P/a', put: '/p/a', server: router({ caseSensitive: false }) },
  'another case that is written to': { reads: '/P/:id', writes: '/p/:name', get: '/p/a', put: '/P/a', server: router({ caseSensitive: false }) },
  'a semicolon': { reads: '/p/:id', writes: '/p/:name', get: '/p/1;a=b', put: '/p/1', server: router({ useSemicolonDelimiter: true }) },
  'a fragment': { reads: '/p/:id', writes: '/p/:name', get: '/p/1', put: '/p/1#a' },
  Location: { reads: '/p/:id', writes: '/jobs', get: '/p/1', put: '/jobs', location: '/p/1' },
  'a Location that is relative': { reads: '/a/p/:id', writes: '/a/jobs', get: '/a/p/1', put: '/a/jobs', location: 'p/1' },
  'a Location with another spelling': { reads: '/p/:id', writes: '/jobs', get: '/p/%79', put: '/jobs', location: 'http://localhost/p/y' },
  'Content-Location': { reads: '/p/:id', writes: '/jobs', get: '/p/1', put: '/jobs', contentLocation: '/p/1' },
  'a rewritten URL': { reads: '/p/:id', writes: '/p/:name', get: '/public/p/1', put: '/p/1', server: { rewriteUrl } },
  'a rewritten URL that is written to': { reads: '/p/:id', writes: '/p/:name', get: '/p/1', put: '/public/p/1', server: { rewriteUrl } },
  'a Location of the public face': { reads: '/p/:id', writes: '/jobs', get: '/public/p/1', put: '/jobs', location: '/public/p/1', server: { rewriteUrl } }
}

async function build (t: Test, store: StoreName, { reads, writes, server, location, contentLocation }: Case, cache: RouteCacheOptions | true = true) {
  return await createCacheApp(t, {
    store,
    ...server && { server },
    options: { timeout: '1h' },
    routes (app) {
      app.get(reads, { config: { cache } }, async (request, reply) => {
        if (request.headers['x-vary'] !== undefined) reply.header('vary', 'x-vary')
        return 'read'
      })
      app.get('/other', { config: { cache } }, async () => 'read')
      app.put(writes, async (_request, reply) => {
        if (location !== undefined) reply.header('location', location)
        if (contentLocation !== undefined) reply.header('content-location', contentLocation)
        return await reply.code(201).send('written')
      })
    }
  })
}

onBothStores('a changed URL is invalidated whatever the pattern of the route that writes it, and however it is spelled', async (t, store) => {
  for (const [name, each] of Object.entries(CHANGED)) {
    const { app } = await build(t, store, each)
    for (const url of [each.get, '/other']) {
      await ask(app, url)
      await settled(app)
      t.equal((await ask(app, url)).cache, 'HIT', `${name}: ${url} is stored`)
    }
    t.equal((await ask(app, each.put, {}, { method: 'PUT' })).status, 201, name)
    t.equal((await ask(app, each.get)).cache, 'MISS', `${name}: it is gone`)
    t.equal((await ask(app, '/other')).cache, 'HIT', `${name}: another URL is not`)
  }
})

/** Key configurations of a route, with headers of three clients whose responses lie under keys of their own. */
const KEYED: Record<string, [RouteCacheOptions, Array<Record<string, string>>]> = {
  vary: [{ vary: ['accept'] }, [{ accept: 'a' }, { accept: 'b' }, {}]],
  'Vary of the response': [{}, [{ 'x-vary': 'a' }, { 'x-vary': 'b' }, { 'x-vary': 'c' }]],
  private: [{ private: request => String(request.headers['x-user']) }, [{ 'x-user': 'ann' }, { 'x-user': 'bob' }, { 'x-user': 'eve' }]],
  query: [{ key: { query: { exclude: ['utm'] } } }, [{}]],
  host: [{ key: { host: true } }, [{}]],
  all: [{ key: { host: true, query: { include: ['a'] } }, vary: ['accept'], private: request => String(request.headers['x-user']) }, [{ 'x-user': 'ann' }, { 'x-user': 'bob', accept: 'a' }, { 'x-user': 'eve', 'x-vary': 'b' }]]
}

onBothStores('all variants, owners and key configurations of a changed URL are invalidated, also by Location', async (t, store) => {
  for (const location of [undefined, '/p/1']) {
    for (const [name, [options, clients]] of Object.entries(KEYED)) {
      const each = { reads: '/p/:id', writes: location === undefined ? '/p/:name' : '/jobs', get: '/p/1', put: location === undefined ? '/p/1?a=9' : '/jobs', location }
      const { app } = await build(t, store, each as Case, options)
      for (const headers of clients) {
        await ask(app, '/p/1?a=1', headers)
        await settled(app)
        t.equal((await ask(app, '/p/1?a=1', headers)).cache, 'HIT', `${name}: stored`)
      }
      await ask(app, each.put, {}, { method: 'PUT' })
      for (const headers of clients) {
        t.equal((await ask(app, '/p/1?a=1', headers)).cache, 'MISS', `${name} ${JSON.stringify(headers)} ${String(location)}`)
        await settled(app)
      }
    }
  }
})

onBothStores('with the host in the key, a change on one host invalidates no other host\'s response', async (t, store) => {
  const { app } = await build(t, store, { reads: '/p/:id', writes: '/p/:name', get: '', put: '' }, { key: { host: true } })
  const hosts = ['a.example', 'b.example']
  for (const host of hosts) await ask(app, '/p/1', { host })
  await settled(app)
  await ask(app, '/p/1', { host: 'A.example' }, { method: 'PUT' })
  t.same(await Promise.all(hosts.map(async host => (await ask(app, '/p/1', { host })).cache)), ['MISS', 'HIT'])
})

onBothStores('a route of all methods, routes with constraints and routes below a prefix are invalidated by their unsafe methods', async (t, store) => {
  const { app } = await createCacheApp(t, {
    store,
    options: { timeout: '1h' },
    routes (app) {
      app.all('/any/*', { config: { cache: true } }, async () => 'any')
      for (const version of ['1.0.0', '2.0.0']) app.get('/v/:id', { constraints: { version }, config: { cache: true } }, async () => version)
      app.put('/v/:name', async () => 'written')
      app.register(async child => { child.get('/:id', { config: { cache: true } }, async () => 'child') }, { prefix: '/shop/items' })
      app.register(async child => { child.delete('/:name', async () => 'written') }, { prefix: '/shop/items' })
    }
  })
  const gets: Array<[string, Record<string, string>]> = [['/any/a/b', {}], ['/v/1', { 'accept-version': '1.x' }], ['/v/1', { 'accept-version': '2.x' }], ['/shop/items/1', {}]]
  const all = async (): Promise<string[]> => await Promise.all(gets.map(async ([url, headers]) => (await ask(app, url, headers)).cache))
  t.same(await all(), ['MISS', 'MISS', 'MISS', 'MISS'])
  await settled(app)
  t.same(await all(), ['HIT', 'HIT', 'HIT', 'HIT'])
  await app.inject({ method: 'POST', url: '/any/a/b' })
  await app.inject({ method: 'PUT', url: '/v/1' })
  await app.inject({ method: 'DELETE', url: '/shop/items/1' })
  t.same(await all(), ['MISS', 'MISS', 'MISS', 'MISS'])
})

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: a response that was begun before its URL was changed is not served after that, on any instance`, async t => {
    let isOpen = (): void => {}
    const opened = new Promise<void>(resolve => { isOpen = resolve })
    let runs = 0
    const { apps, clock } = await createCacheApp(t, {
      store,
      instances: 2,
      options: { timeout: '1h' },
      routes (app) {
        app.get('/p/:id', { config: { cache: { private: () => 'ann', ttl: '1h' } } }, async () => {
          const run = ++runs
          if (run === 1) await opened
          return `run ${run}`
        })
        app.put('/p/:name', async () => 'written')
      }
    })
    const [app, other] = apps as [FastifyInstance, FastifyInstance]
    const old = ask(app, '/p/1')
    await settled(app, other)
    await other.inject({ method: 'PUT', url: '/p/1' })
    isOpen()
    // A request that finds the lease of the earlier response still held polls again when the clock has advanced.
    const bodyOf = async (response: ReturnType<typeof ask>) => (await advanceWhile(clock, response)).value.body
    t.equal(await bodyOf(old), 'run 1')
    await settled(app, other)
    for (const each of [app, other]) t.equal(await bodyOf(ask(each, '/p/1')), 'run 2')
  })
})

onBothStores('an unsafe request to a path that no cached route has asks nothing of the store, and a failed one invalidates nothing', async (t, store) => {
  const { app } = await createCacheApp(t, {
    store,
    options: { timeout: '1h' },
    routes (app) {
      app.get('/p/:id', { config: { cache: true } }, async () => 'read')
      app.post('/p/:id/orders', async (_request, reply) => await reply.header('location', '/orders/1').send('written'))
      app.put('/p/:id', async (_request, reply) => await reply.code(409).send('no'))
    }
  })
  await ask(app, '/p/1')
  await settled(app)
  await app.inject({ method: 'POST', url: '/p/1/orders' })
  await app.inject({ method: 'PUT', url: '/p/1' })
  t.equal(app.cache.stats().invalidations, 0)
  t.equal((await ask(app, '/p/1')).cache, 'HIT')
})

onBothStores('spellings that are invalidated together are different keys', async (t, store) => {
  const { app } = await createCacheApp(t, {
    store,
    server: { routerOptions: { caseSensitive: false, ignoreTrailingSlash: true } },
    routes: app => app.get('/p/*', { config: { cache: true } }, async request => request.url)
  })
  const urls = ['/p/a', '/p/A', '/p/a/', '/p/%61', '/p/a%2Fb', '/p/a/b']
  for (const url of urls) t.match(await ask(app, url), { cache: 'MISS', body: url })
  await settled(app)
  for (const url of urls) t.match(await ask(app, url), { cache: 'HIT', body: url })
})

t.test('the event of a changed path reports the path as a key', async t => {
  const { app } = await build(t, 'memory', { reads: '/p/:id', writes: '/p/:name', get: '', put: '' })
  const told: unknown[] = []
  app.cache.on('invalidate', event => told.push(event))
  await app.inject({ method: 'PUT', url: '/p/A' })
  t.same(told, [{ key: '/p/a', origin: 'local' }])
})

t.test('a path has one canonical spelling, and a pattern matches each path that its route is reached by', async t => {
  const table: Array<[string, string]> = [
    ['/', '/'], ['', '/'], ['/a/b', '/a/b'], ['/A//b/', '/a/b'], ['/%79', '/y'], ['/%C3%89', '/é'], ['/a%2Fb', '/a%2fb'], ['/a%252fb', '/a%2fb'], ['/%', '/%'], ['/a?b#c', '/a'],
    ['/a#b?c', '/a'], ['/a;b', '/a'], ['http://h/a', '/a'], ['HTTP://h:80?a', '/'], ['*', '/*'], ['/a\\b', '/a/b']
  ]
  for (const [url, expected] of table) t.equal(canonicalPath(url), expected, url)
  const patterns: Array<[pattern: string, matching: string[], others: string[]]> = [
    ['/', ['/'], ['/a']], ['/*', ['/', '/a', '/a/b'], []], ['*', ['/', '/a'], []], ['/a', ['/a'], ['/', '/a/b', '/ab']], ['/a/:b', ['/a', '/a/b'], ['/a/b/c', '/b']],
    ['/a/:b/c', ['/a/b/c', '/a/c'], ['/a/b', '/a/b/c/d']], ['/A/:b-:c', ['/a/b-c'], ['/b/b-c']], ['/a*', ['/a', '/ab', '/a/b'], ['/b']], ['/a/:id(^\\d+$)/x', ['/a/1/x'], ['/b/1/x']],
    ['/a::b', ['/a:b'], ['/ab', '/a']], ['/a.b', ['/a.b'], ['/axb']], ['/é', ['/é'], ['/e']]
  ]
  for (const [pattern, matching, others] of patterns) {
    const matches = compilePattern(pattern)
    for (const path of matching) t.ok(matches(path), `${pattern} ${path}`)
    for (const path of others) t.notOk(matches(path), `${pattern} ${path}`)
  }
})

onBothStores('a removal by pattern removes a path however a client has spelled it, and no other one', async (t, store) => {
  const { app } = await createCacheApp(t, {
    store,
    options: { timeout: '1h' },
    server: { ...router({ ignoreDuplicateSlashes: true }), rewriteUrl: ({ headers }) => String(headers['x-target']) },
    routes (app) { for (const url of ['/p/:id', '/q/:id']) app.get(url, { config: { cache: true } }, async () => 'read') }
  })
  const spellings = ['/p/1', '/%70/%31', '/p/1?a=b', '/p/%31?a=%62', '//p//1', 'http://other.test/p/1', 'HTTP://other.test:80/%70/1?a=c']
  const others = ['/q/1', '/q/%31', '/q/1?/p/1', '/q/%2Fp%2F1', 'http://other.test/q/p']
  // `inject` makes a path of an absolute target.
  const get = (target: string) => ask(app, '/', { 'x-target': target })
  for (const url of [...spellings, ...others]) t.equal((await get(url)).status, 200, url)
  await settled(app)
  t.equal(await app.cache.invalidatePattern('/p/*'), spellings.length)
  for (const url of others) t.equal((await get(url)).cache, 'HIT', url)
  for (const url of spellings) t.equal((await get(url)).cache, 'MISS', url)
})
