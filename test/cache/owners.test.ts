import cookie from '@fastify/cookie'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { RouteCacheOptions } from '../../plugins/cache/index.js'
import { ask, createCacheApp, onBothStores, settled, type Answer } from '../helpers/cache/cache-app.js'
import { createTestApp } from '../helpers/index.js'
import { Browser } from '../helpers/session/session-app.js'

const NOBODY = { undefined, null: null, 'an empty string': '', NaN, false: false }
const REFUSED = {
  'an object': { id: 1 },
  'an array': ['ann'],
  'a String object': Object('ann') as unknown,
  true: true,
  'a symbol': Symbol('ann'),
  'a function': () => 'ann',
  Infinity,
  'a whole number that is rounded': 2 ** 53
}
const userOf = (request: FastifyRequest) => request.headers['x-user'] as string

onBothStores('owners named by a promise have separate responses', async (t, store) => {
  const { app } = await createCacheApp(t, {
    store,
    routes: app => app.get('/', { config: { cache: { private: async request => await Promise.resolve(userOf(request)) } } }, async request => userOf(request))
  })
  for (const user of ['ann', 'bob']) {
    t.match(await ask(app, '/', { 'x-user': user }), { body: user, cache: 'MISS' })
    await settled(app)
    t.match(await ask(app, '/', { 'x-user': user }), { body: user, cache: 'HIT' })
  }
})

for (const [what, value] of Object.entries(NOBODY)) {
  for (const given of [value, Promise.resolve(value)]) {
    t.test(`${given === value ? '' : 'a promise of '}${what} is no owner: the response is neither cached nor looked up`, async t => {
      const { app } = await createCacheApp(t)
      app.get('/', { config: { cache: { private: request => userOf(request) === 'ann' ? 'ann' : given as undefined } } }, async request => userOf(request))
      await ask(app, '/', { 'x-user': 'ann' })
      for (const user of ['bob', 'bob', 'cid']) {
        await settled(app)
        t.match(await ask(app, '/', { 'x-user': user }), { body: user, cache: 'BYPASS' })
      }
    })
  }
}

for (const [what, value] of Object.entries(REFUSED)) {
  for (const given of [value, Promise.resolve(value)]) {
    t.test(`${given === value ? '' : 'a promise of '}${what} as an owner is a coded error that names the route`, async t => {
      const { app } = await createCacheApp(t)
      app.get('/orders', { config: { cache: { private: () => given as string } } }, async request => userOf(request))
      const { status, body } = await ask(app, '/orders', { 'x-user': 'ann' })
      t.equal(status, 500)
      t.match(JSON.parse(body), { code: 'FST_REDIS_SUITE_CACHE_INVALID_VALUE', message: /config\.cache\.private of GET \/orders/ })
    })
  }
}

t.test('an error that the function throws, or its promise rejects with, is the error of the request', async t => {
  const { app } = await createCacheApp(t)
  const error = Object.assign(new Error('no such tenant'), { statusCode: 418 })
  app.get('/throws', { config: { cache: { private: () => { throw error } } } }, async () => 'never')
  app.get('/rejects', { config: { cache: { private: async () => { throw error } } } }, async () => 'never')
  for (const url of ['/throws', '/rejects']) t.match(await ask(app, url), { status: 418, body: /no such tenant/ })
})

t.test('a string and a number are different owners, a number and a bigint of the same value are one', async t => {
  const { app } = await createCacheApp(t)
  const ids = [1, '1', 1n, 0, '0', -0, 1.5, '1.5', '\u00001', '\u0000=1', 123456789012345678901n]
  app.get('/', { config: { cache: { private: request => ids[Number(userOf(request))] } } }, async request => userOf(request))
  const bodies: string[] = []
  for (const index of ids.keys()) {
    bodies.push((await ask(app, '/', { 'x-user': String(index) })).body)
    await settled(app)
  }
  t.same(bodies, ['0', '1', '0', '3', '4', '3', '6', '7', '8', '9', '10'])
})

t.test('an unsafe request is not asked for its owner before the handler runs', async t => {
  const { app } = await createCacheApp(t)
  let asked = 0
  let askedBefore: number | undefined
  app.route({
    method: ['GET', 'POST'],
    url: '/',
    config: { cache: { private: async request => { asked++; return userOf(request) } } },
    handler: async request => {
      if (request.method === 'POST') askedBefore = asked
      return userOf(request)
    }
  })
  t.equal((await ask(app, '/', { 'x-user': 'ann' }, { method: 'POST' })).status, 200)
  t.equal(askedBefore, 0)
})

onBothStores('a write of an owner named by a promise removes that owner\'s response', async (t, store) => {
  let version = 1
  const { app } = await createCacheApp(t, {
    store,
    routes: app => {
      app.get('/', { config: { cache: { private: async request => userOf(request) } } }, async request => `${userOf(request)} ${version}`)
      app.put('/', async () => ++version)
    }
  })
  const ann = { 'x-user': 'ann' }
  t.equal((await ask(app, '/', ann)).body, 'ann 1')
  await settled(app)
  await ask(app, '/', ann, { method: 'PUT' })
  t.equal((await ask(app, '/', ann)).body, 'ann 2')
})

onBothStores('a stale response of an owner named by a promise is refreshed in the background', async (t, store) => {
  let version = 1
  const { app, clock } = await createCacheApp(t, {
    store,
    routes: app => app.get('/', { config: { cache: { ttl: '1m', staleWhileRevalidate: '1h', private: async request => userOf(request) } } }, async request => `${userOf(request)} ${version++}`)
  })
  const ann = { 'x-user': 'ann' }
  await ask(app, '/', ann)
  await settled(app)
  await clock.advance('2m')
  t.match(await ask(app, '/', ann), { body: 'ann 1', cache: 'STALE' })
  await settled(app)
  t.match(await ask(app, '/', ann), { body: 'ann 2', cache: 'HIT' })
})

const ownerOf = (request: FastifyRequest) => request.headers['x-user'] as string | undefined
const ANN = { 'x-user': 'ann' }

/** An app whose private route sets `headers`. */
async function start (t: Test, headers: Record<string, string | string[]> = {}, config: RouteCacheOptions = {}, store: 'memory' | 'redis' = 'memory') {
  return await createCacheApp(t, {
    store,
    routes: app => app.get('/', { config: { cache: { private: ownerOf, ...config } } }, async (request, reply) => {
      reply.headers(headers)
      return `page of ${ownerOf(request)}`
    })
  })
}

/** Returns the responses to a miss, a hit, a conditional request and one without an owner. */
async function answersOf (app: FastifyInstance, headers: Record<string, string> = {}): Promise<Record<string, Answer>> {
  const miss = await ask(app, '/', { ...ANN, ...headers })
  await settled(app)
  const hit = await ask(app, '/', { ...ANN, ...headers })
  const conditional = await ask(app, '/', { ...ANN, ...headers, 'if-none-match': String(hit.headers['etag']) })
  const anonymous = await ask(app, '/', headers)
  return { miss, hit, conditional, anonymous }
}

const fieldsOf = (answers: Record<string, Answer>, name: string) => Object.fromEntries(Object.entries(answers).map(([what, { headers }]) => [what, headers[name]]))
const all = (value: unknown) => ({ miss: value, hit: value, conditional: value, anonymous: value })

onBothStores('each response of a private route is private: miss, hit, 304, and one without an owner', async (t, store) => {
  const { app } = await start(t, {}, {}, store as 'memory')
  const answers = await answersOf(app)
  t.same(Object.values(answers).map(({ status, cache }) => `${status} ${cache}`), ['200 MISS', '200 HIT', '304 HIT', '200 BYPASS'])
  t.same(fieldsOf(answers, 'cache-control'), all('private'))
})

const SAID: Record<string, string> = {
  'max-age=60': 'max-age=60, private',
  'no-cache': 'no-cache, private',
  's-maxage=60, max-age=5': 's-maxage=60, max-age=5, private',
  'must-revalidate, max-age=5': 'must-revalidate, max-age=5, private',
  'max-age=60, private="x-a"': 'max-age=60, private="x-a", private',
  'must-understand, no-store': 'must-understand, no-store, private',
  'private, max-age=60': 'private, max-age=60',
  Private: 'Private',
  'no-store': 'no-store',
  'max-age=60; broken': 'private',
  '': 'private'
}

for (const [said, sent] of Object.entries(SAID)) {
  t.test(`a private route's Cache-Control "${said}" is sent as "${sent}"`, async t => {
    const { app } = await start(t, { 'cache-control': said })
    t.same(fieldsOf(await answersOf(app), 'cache-control'), all(sent))
  })
}

t.test('several Cache-Control fields of a private route are sent as one, with private', async t => {
  const { app } = await start(t, { 'cache-control': ['max-age=60', 'must-revalidate'] })
  t.same(fieldsOf(await answersOf(app), 'cache-control'), all('max-age=60, must-revalidate, private'))
})

t.test('a private route whose response says public is left as it is, and logged once', async t => {
  const said = { 'cache-control': 'public, max-age=60', 'cdn-cache-control': 'max-age=60' }
  const { app, warnings } = await start(t, said)
  const answers = await answersOf(app)
  for (const [name, value] of Object.entries(said)) t.same(fieldsOf(answers, name), all(value))
  t.match(warnings(), [/private route says "Cache-Control: public"/])
  t.equal(warnings().length, 1)
})

const TARGETED: Record<string, Record<string, string>> = {
  'cdn-cache-control': { 'max-age=60': 'max-age=60, private', 'max-age=60, private': 'max-age=60, private', 'no-store': 'no-store', 'max-age=60, public': 'max-age=60, public', 'max-age=60;;': 'private' },
  'cloudflare-cdn-cache-control': { 'max-age=60': 'max-age=60, private' },
  'vercel-cdn-cache-control': { 'max-age=60': 'max-age=60, private' },
  'netlify-cdn-cache-control': { 'max-age=60': 'max-age=60, private' },
  'shop-cache-control': { 'max-age=60': 'max-age=60, private' },
  'surrogate-control': { 'max-age=60': 'no-store' },
  'edge-control': { '!no-store, max-age=60': 'no-store' },
  'x-accel-expires': { 60: '0' }
}

for (const [name, cases] of Object.entries(TARGETED)) {
  for (const [said, sent] of Object.entries(cases)) {
    t.test(`a private route's ${name} "${said}" is sent as "${sent}", as a CDN heeds it above Cache-Control`, async t => {
      const { app } = await start(t, { [name]: said }, { targeted: ['cdn-cache-control', 'shop-cache-control'] })
      const answers = await answersOf(app)
      t.same(fieldsOf(answers, name), all(sent))
      t.same(fieldsOf(answers, 'cache-control'), all('private'))
    })
  }
}

t.test('a response of a private route that a hook refuses, that fails, or that is a redirect is private', async t => {
  const { app } = await createCacheApp(t)
  const config = { cache: { private: ownerOf } }
  app.get('/refused', { config, onRequest: async (_request, reply) => await reply.code(404).send('no') }, async () => 'never')
  app.get('/fails', { config }, async () => { throw Object.assign(new Error('gone'), { statusCode: 410 }) })
  app.get('/moved', { config }, async (_request, reply) => reply.redirect('/fails', 301))
  for (const [url, status] of [['/refused', 404], ['/fails', 410], ['/moved', 301]] as const) t.match(await ask(app, url, ANN), { status, headers: { 'cache-control': 'private' } }, url)
})

t.test('a Cache-Control that a hook of the app sets on each response is private on a hit too', async t => {
  const { app } = await createCacheApp(t, { before: app => { app.addHook('onSend', async (_request, reply) => { reply.headers({ 'cache-control': 'max-age=60', 'cdn-cache-control': 'max-age=60' }) }) } })
  app.get('/', { config: { cache: { private: ownerOf } } }, async () => 'page')
  const answers = await answersOf(app)
  for (const name of ['cache-control', 'cdn-cache-control']) t.same(fieldsOf(answers, name), all('max-age=60, private'))
})

t.test('with ttl "headers" a response that a 304 confirms retains its lifetime, and is private', async t => {
  const { app, clock } = await createCacheApp(t)
  let runs = 0
  app.get('/', { config: { cache: { ttl: 'headers', private: ownerOf } } }, async (request, reply: FastifyReply) => {
    runs++
    reply.header('etag', '"1"')
    return request.headers['if-none-match'] === '"1"' ? await reply.code(304).send() : await reply.header('cache-control', 'max-age=60').send('page')
  })
  const get = async () => {
    const answer = await ask(app, '/', ANN)
    await settled(app)
    return [answer.cache, answer.headers['cache-control'], runs]
  }
  t.same(await get(), ['MISS', 'max-age=60, private', 1])
  await clock.advance('61s')
  t.same(await get(), ['REVALIDATED', 'max-age=60, private', 2])
  t.same(await get(), ['HIT', 'max-age=60, private', 2])
})

t.test('a response to a session is private on a cached route, and the one to a visitor without it is left to the handler', async t => {
  const said: Record<string, string | undefined> = { '/plain': undefined, '/max-age': 'max-age=60', '/public': 'public, max-age=60', '/s-maxage': 's-maxage=60' }
  const { app } = await createTestApp(t, {
    plugins: { session: {}, cache: { unkeyed: false } },
    routes: app => {
      app.post('/login', async request => { await request.login('ann') })
      for (const [url, value] of Object.entries(said)) {
        app.get(url, { config: { cache: true } }, async (_request, reply) => {
          if (value !== undefined) reply.header('cache-control', value)
          return 'page'
        })
      }
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/login')
  const sent: Record<string, unknown> = {}
  for (const url of Object.keys(said)) {
    t.equal((await ask(app, url)).headers['cache-control'], said[url], `${url} of a visitor`)
    sent[url] = (await user.send('GET', url)).headers['cache-control']
  }
  t.same(sent, { '/plain': 'private', '/max-age': 'max-age=60, private', '/public': 'public, max-age=60', '/s-maxage': 's-maxage=60' })
})

t.test('a response that depends on a user or a header beside the key is private where it is not stored', async t => {
  const { app } = await createCacheApp(t, { options: { unkeyed: 'bypass' } })
  app.decorateRequest('user', null as never)
  app.get('/user', { config: { cache: true }, onRequest: async request => { Object.assign(request, { user: ownerOf(request) }) } }, async () => 'page')
  app.get('/header', { config: { cache: true } }, async request => String(ownerOf(request)))
  app.get('/authorization', { config: { cache: true } }, async () => 'page')
  for (const url of ['/user', '/header']) t.equal((await ask(app, url, ANN)).headers['cache-control'], 'private', url)
  t.equal((await ask(app, '/authorization', { authorization: 'Bearer a' })).headers['cache-control'], undefined, 'shared caches know this field')
})

t.test('a response that depends on more than its key is private, also if another reason prevents storing', async t => {
  const { app } = await createCacheApp(t, { options: { unkeyed: 'bypass' }, before: async app => { await app.register(cookie) } })
  app.decorateRequest('user', null as never)
  app.get('/header', { config: { cache: true }, onRequest: async request => { ownerOf(request) } }, async () => 'page')
  app.get('/rolling', { config: { cache: true } }, async (request, reply) => await reply.setCookie('visitor', String(request.cookies['visitor'])).send('page'))
  app.get('/late', { config: { cache: { hook: 'onRequest' } }, preHandler: async request => { Object.assign(request, { user: 'ann' }) } }, async () => 'page')
  app.get('/refused', { config: { cache: true } }, async (request, reply) => await reply.noCache().send(`page of ${ownerOf(request)}`))
  app.get('/host', { config: { cache: true } }, async (request, reply) => await reply.header('cache-control', 'max-age=60').send(`${request.protocol}://${request.hostname}`))
  app.get('/none', { config: { cache: true } }, async (_request, reply) => await reply.noCache().send('page'))
  const headers = { ...ANN, cookie: 'visitor=1' }
  const sent = async (url: string, more = {}) => (await ask(app, url, headers, more)).headers['cache-control']
  t.same([await sent('/header'), await sent('/header'), await sent('/header', { method: 'HEAD' })], ['private', 'private', 'private'], 'also while such requests do not wait for one another')
  for (const url of ['/rolling', '/late', '/refused']) t.equal(await sent(url), 'private', url)
  t.equal(await sent('/none'), undefined)
  t.same([await sent('/host'), await sent('/host')], ['max-age=60', 'max-age=60'], 'the host is a part of the URL, which every cache has in its key')
})

t.test('a route that is not private says nothing of its own', async t => {
  const { app } = await createCacheApp(t)
  app.get('/', { config: { cache: true } }, async () => 'page')
  t.same(fieldsOf(await answersOf(app), 'cache-control'), all(undefined))
})
