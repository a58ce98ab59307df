import t from 'tap'
import { ask, askTwice, buildCacheApp, onEachStore, settled } from '../helpers/cache/cache-app.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const promise = onEachStore(server)
const ROUTER = { ignoreDuplicateSlashes: true, ignoreTrailingSlash: true, caseSensitive: false, useSemicolonDelimiter: true }

for (const header of ['x-forwarded-host', 'x-original-url', 'x-http-method-override']) {
  promise(`an answer that depends on ${header} is not stored where unkeyed is "bypass", and others are`, async (t, connection) => {
    const app = await buildCacheApp(t, { connection, options: { unkeyed: 'bypass' } })
    app.get('/', { config: { cache: true } }, async request => `for ${String(request.headers[header] ?? 'all')}`)
    const [poison, next] = await askTwice(app, '/', { [header]: 'evil' }, {})
    t.same([poison.body, next.body, next.cache], ['for evil', 'for all', 'MISS'])
    await settled()
    t.equal((await ask(app, '/')).cache, 'HIT')
    t.match(await ask(app, '/', { [header]: 'evil' }), { cache: 'HIT', body: 'for all' })
  })
}

t.test('where unkeyed is "warn" it is said once, and however many headers are read the log stays short', async t => {
  const lines: string[] = []
  const app = await buildCacheApp(t, { options: { unkeyed: 'warn' }, server: { logger: { level: 'warn', stream: { write: (line: string) => { lines.push(line) } } } } })
  app.get('/one', { config: { cache: true } }, async request => String(request.headers['x-forwarded-host']))
  app.get('/all', { config: { cache: true } }, async request => Object.keys({ ...request.headers }).length)
  for (const n of [1, 2]) await ask(app, `/one?${n}`, { 'x-forwarded-host': 'a' })
  t.equal(lines.filter(line => line.includes('"x-forwarded-host\\"')).length, 1)
  for (let n = 0; n < 1100; n++) await ask(app, `/all?${n}`, { [`x-${n}`]: 'a' })
  t.ok(lines.length < 1050, `${lines.length} lines`)
})

t.test('a cookie that was parsed before is seen to be read as well', async t => {
  const app = await buildCacheApp(t, { options: { unkeyed: 'bypass' }, before: async app => { await app.register((await import('@fastify/cookie')).default) } })
  app.get('/', { config: { cache: true } }, async request => `for ${request.cookies['user'] ?? 'nobody'}`)
  const [ann, bob] = await askTwice(app, '/', { cookie: 'user=ann' }, { cookie: 'user=bob' })
  t.same([ann.body, bob.body], ['for ann', 'for bob'])
})

promise('a query whose names are spelt in several ways is never taken for another one', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  app.get('/', { config: { cache: true } }, async request => request.query)
  const queries = ['a=1&%61=2', '%61=2&a=1', 'a=2&a=1', 'a=1&a=2', 'a=1;a=2', 'a=1%26a=2', 'a=1&A=2', 'a%00=1', 'a=', 'a', 'a=1+2', 'a=1%202', 'a=1%2B2', '%c0%61=1', '%=1&%2=2']
  const fresh: string[] = []
  for (const query of queries) fresh.push((await ask(app, `/?${query}`, { authorization: 'x' })).body)
  for (const query of queries) await ask(app, `/?${query}`)
  await settled()
  for (const [i, query] of queries.entries()) t.equal((await ask(app, `/?${query}`)).body, fresh[i], query)
})

promise('a query parameter that is not in the key does not reach the handler, however it is spelt', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, server: { rewriteUrl: request => request.url ?? '' } })
  const seen = async (request: { query: unknown, url: string, originalUrl: string }) => ({ query: request.query, url: request.url, original: request.originalUrl })
  app.get('/in', { config: { cache: { key: { query: { include: ['id'] } } } } }, seen)
  app.get('/ex', { config: { cache: { key: { query: { exclude: ['utm'] } } } } }, seen)
  for (const evil of ['utm=evil', '%75tm=evil', 'u%74m=evil&utm=evil', 'utm=evil;id=2', 'utm=evil%26id=2', 'utm', 'utm[]=evil&utm=evil']) {
    for (const url of [`/in?id=1&${evil}`, `/in?${evil}&id=1`]) {
      const { body } = await ask(app, url)
      t.notMatch(body, 'evil', url)
    }
    if (!evil.includes('[')) t.notMatch((await ask(app, `/ex?id=1&${evil}`)).body, 'evil', evil)
  }
  t.match(await ask(app, '/in?id=1&utm=other'), { cache: 'HIT', body: '"id":"1"' })
  t.match(await ask(app, '/in?utm=x;id=1'), { cache: 'MISS', body: '"query":{}' })
})

promise('a parser of queries of one\'s own cannot smuggle in what is not in the key', async (t, connection) => {
  const app = await buildCacheApp(t, {
    connection,
    server: { routerOptions: { querystringParser: text => Object.fromEntries(new URLSearchParams(text.replaceAll(';', '&').replaceAll('[x]', ''))) } }
  })
  app.get('/in', { config: { cache: { key: { query: { include: ['id'] } } } } }, async request => request.query)
  for (const evil of ['utm=1;id=evil', 'id=1&id[x]=evil', 'id[x]=evil', 'utm=1;id=evil&id=1']) {
    await ask(app, `/in?${evil}`)
    await settled()
  }
  for (const [query, body] of [['', {}], ['id=1', { id: '1' }], ['utm=1', {}], ['utm=1&id=1', { id: '1' }]] as const) {
    t.same(JSON.parse((await ask(app, `/in?${query}`)).body), body, query)
  }
})

promise('paths that a proxy may take for the same, or for a file, have answers of their own', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, server: { routerOptions: ROUTER } })
  app.get('/account', { config: { cache: false } }, async () => 'secret')
  app.get('/account/*', { config: { cache: true } }, async request => `${request.url} ${JSON.stringify(request.params)} ${JSON.stringify(request.query)}`)
  const urls = ['/account/x.css', '/account/x.css/', '/account//x.css', '/account/x%2ecss', '/account/x%2Ecss', '/account/%2fx.css', '/account/..;/x.css', '/account/x.css;a=1', '/account/x.css?a=1',
    '/account/x.css.', '/account/x.css..', '/account/X.css', '/account/x.css%00', '/account/x.css%23', '/account/x.css#a=1', '/account/./x.css', '/account/%2e%2e/x.css']
  const fresh: string[] = []
  for (const url of urls) fresh.push((await ask(app, url, { authorization: 'x' })).body)
  for (const url of urls) await ask(app, url)
  await settled()
  for (const [i, url] of urls.entries()) t.match(await ask(app, url), { body: fresh[i] }, url)
  for (const url of ['/account', '/account?x.css', '/account;x.css', '/account#x.css']) t.match((await askTwice(app, url))[1], { cache: 'undefined', body: 'secret' }, url)
})

promise('a route that asks who is there keeps nothing for those who come after: cookies, Authorization, sessions', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { ttl: 30, staleIfError: '1m', staleWhileRevalidate: '1m' } })
  let runs = 0
  app.get('/me', { config: { cache: true } }, async (request, reply) => {
    runs++
    await settled()
    if (request.headers['x-login']) reply.header('set-cookie', `sid=${String(request.headers['x-login'])}`)
    if (request.headers.authorization) return `secret of ${request.headers.authorization}`
    return 'public'
  })
  const logins = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(app, '/me', { 'x-login': `u${i}` })))
  t.same(logins.map(answer => answer.headers['set-cookie']), logins.map((_, i) => `sid=u${i}`), 'each has his own, who waited too')
  t.equal(app.cache.stats().stored, 0)
  const known = await Promise.all(['ann', 'bob', undefined].map(name => ask(app, '/me', name ? { authorization: name } : {})))
  t.same(known.map(answer => answer.body), ['secret of ann', 'secret of bob', 'public'])
  await settled()
  await new Promise(resolve => setTimeout(resolve, 40))
  const before = runs
  t.match(await ask(app, '/me', { 'x-login': 'ann', cookie: 'sid=ann' }), { cache: 'STALE', body: 'public' })
  await until('it is made anew', () => runs === before + 1)
  await settled()
  t.notOk((await ask(app, '/me')).headers['set-cookie'], 'whoever asked first left no trace')
})

promise('what is made anew for one user is never kept for another one', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { ttl: 10, staleWhileRevalidate: '1m' } })
  // An admin who sees the site as somebody else: who it is depends on a header that a request in the background has not.
  const owner = (headers: Record<string, unknown>) => String(headers['x-as'] ?? headers['cookie'])
  app.get('/me', { config: { cache: { private: request => owner(request.headers) } } }, async request => `for ${owner(request.headers)}`)
  await ask(app, '/me', { cookie: 'admin', 'x-as': 'bob' })
  // Longer than the store's clock may be guessed wrong while the process is busy.
  await new Promise(resolve => setTimeout(resolve, 150))
  t.match(await ask(app, '/me', { cookie: 'admin', 'x-as': 'bob' }), { cache: 'STALE', body: 'for bob' })
  await settled()
  await settled()
  t.match(await ask(app, '/me', { cookie: 'bob' }), { body: 'for bob' })
})

promise('what is made anew for one host is never kept for another one', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, server: { trustProxy: true }, options: { ttl: 10, staleWhileRevalidate: '1m', key: { host: true } } })
  app.get('/', { config: { cache: true } }, async request => `for ${request.host}`)
  const proxied = { host: 'inner', 'x-forwarded-host': 'outer' }
  const [, stale] = await askTwice(app, '/', proxied)
  t.equal(stale.cache, 'STALE')
  await settled()
  await settled()
  t.equal((await ask(app, '/', proxied)).body, 'for outer')
})
