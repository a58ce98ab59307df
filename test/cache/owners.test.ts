import type { FastifyRequest } from 'fastify'
import t from 'tap'
import { ask, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'

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

onBothStores('a function that returns a promise of the owner keeps owners apart', async (t, store) => {
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

onBothStores('a write of an owner who is named by a promise removes that owner\'s response', async (t, store) => {
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

onBothStores('a stale response of an owner who is named by a promise is refreshed in the background', async (t, store) => {
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
