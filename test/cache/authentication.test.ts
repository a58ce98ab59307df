import Fastify, { type FastifyInstance, type RouteOptions } from 'fastify'
import t from 'tap'
import { cache } from '../../plugins/cache/index.js'
import { ask, createCacheApp, settled } from '../helpers/cache/cache-app.js'
import { addLateAuth, requireKey, WAYS } from '../helpers/shared/late-auth.js'

const noop = async () => {}

/** Asks without the key, with it, and without it again. */
async function statuses (app: FastifyInstance, url: string, method: 'GET' | 'HEAD' = 'GET'): Promise<Array<number | string>> {
  const before = await ask(app, url, {}, { method })
  await ask(app, url, { 'x-key': 'k' })
  await settled(app)
  const hit = await ask(app, url, { 'x-key': 'k' }, { method })
  return [before.status, hit.status, hit.cache, (await ask(app, url, {}, { method })).status]
}

const REFUSED = [401, 200, 'HIT', 401]

for (const name of ['preHandler', 'onRequest'] as const) {
  for (const way of Object.keys(WAYS)) {
    t.test(`no stored response is given before the ${name} hook of a plugin that ${way} in a later onRoute hook`, async t => {
      const { app } = await createCacheApp(t)
      addLateAuth(app, way, name)
      const config = { cache: { hook: name } }
      app.get('/none', { config }, async () => 'secret')
      app.get('/function', { config, [name]: noop }, async () => 'secret')
      app.get('/array', { config, [name]: [noop, noop] }, async () => 'secret')
      for (const url of ['/none', '/function', '/array']) {
        t.same(await statuses(app, url), REFUSED, url)
        t.same(await statuses(app, url, 'HEAD'), REFUSED, `HEAD ${url}`)
      }
    })
  }
}

t.test('no stored response is given before a hook of the instance or the context, whenever it is added', async t => {
  const { app } = await createCacheApp(t)
  app.get('/root', { config: { cache: true } }, async () => 'secret')
  app.addHook('preHandler', async (request, reply) => { if (request.url.startsWith('/root')) await requireKey(request, reply) })
  await app.register(async child => {
    child.get('/', { config: { cache: true } }, async () => 'secret')
    child.get('/a', { config: { cache: true } }, async () => 'secret')
    child.addHook('preHandler', requireKey)
  }, { prefix: '/child' })
  for (const url of ['/root', '/child', '/child/', '/child/a']) t.same(await statuses(app, url), REFUSED, url)
})

t.test('no stored response is given before a hook that an onRoute hook of the context adds', async t => {
  const { app } = await createCacheApp(t)
  await app.register(async child => {
    child.addHook('onRoute', route => { route.preHandler = [...[route.preHandler ?? []].flat(), requireKey] })
    child.get('/', { config: { cache: true } }, async () => 'secret')
  }, { prefix: '/child' })
  for (const url of ['/child', '/child/']) t.same(await statuses(app, url), REFUSED, url)
})

t.test('a route that another plugin registers as a copy of a cached one has its own lookup, once, after all hooks', async t => {
  const { app } = await createCacheApp(t)
  const routes: RouteOptions[] = []
  app.addHook('onRoute', function (route) {
    if (route.url.startsWith('/v1') || route.method === 'HEAD') return
    routes.push(route)
    this.route({ ...route, url: `/v1${route.url}` })
  })
  app.addHook('onRoute', route => { route.preHandler = [...[route.preHandler ?? []].flat(), requireKey] })
  app.get('/', { config: { cache: true } }, async request => request.url)
  await app.after()
  for (const route of routes) app.route({ ...route, url: '/v1/later' })
  for (const url of ['/', '/v1/', '/v1/later']) {
    t.same(await statuses(app, url), REFUSED, url)
    t.equal((await ask(app, url, { 'x-key': 'k' })).body, url)
  }
})

t.test('what other plugins find in a route while it is registered is theirs alone', async t => {
  const { app } = await createCacheApp(t)
  const seen: unknown[] = []
  app.addHook('onRoute', route => { if (route.method === 'GET') seen.push(route.preHandler, route.onSend) })
  app.get('/a', { config: { cache: true } }, async () => 'a')
  app.get('/b', { config: { cache: true }, preHandler: noop, onSend: [noop] }, async () => 'b')
  t.same(seen, [undefined, undefined, noop, [noop]])
})

t.test('what a later onRoute hook sends in place of the payload is what is stored', async t => {
  const { app } = await createCacheApp(t)
  app.addHook('onRoute', route => { route.onSend = async (_request, reply) => { reply.header('x-late', 'yes'); return 'replaced' } })
  app.get('/', { config: { cache: true } }, async () => 'original')
  t.match(await ask(app, '/'), { body: 'replaced', cache: 'MISS' })
  await settled(app)
  t.match(await ask(app, '/'), { body: 'replaced', cache: 'HIT', headers: { 'x-late': 'yes' } })
})

t.test('a later onRoute hook that assigns onError does not make an error storable', async t => {
  const { app } = await createCacheApp(t)
  app.addHook('onRoute', route => { route.onError = async () => {} })
  let fails = true
  app.get('/', { config: { cache: true }, errorHandler: async (_error, _request, reply) => await reply.code(200).send('sorry') }, async () => {
    if (fails) throw new Error('not now')
    return 'found'
  })
  t.equal((await ask(app, '/')).body, 'sorry')
  await settled(app)
  fails = false
  t.equal((await ask(app, '/')).body, 'found')
})

const REPLACEMENTS: Record<string, (route: RouteOptions) => void> = {
  'redefines preHandler': route => { Object.defineProperty(route, 'preHandler', { value: [requireKey] }) },
  'deletes preHandler': route => { delete route.preHandler },
  'redefines onSend': route => { Object.defineProperty(route, 'onSend', { value: [noop] }) }
}

for (const [what, replace] of Object.entries(REPLACEMENTS)) {
  t.test(`an app does not start where another plugin ${what} of a cached route: the error names the route`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(cache)
    app.addHook('onRoute', route => { if (route.method === 'GET') replace(route) })
    app.get('/orders', { config: { cache: true } }, async () => 'secret')
    await t.rejects(async () => await app.ready(), { code: 'FST_REDIS_SUITE_CACHE_HOOK_REPLACED', message: /GET \/orders/ })
  })
}

t.test('a route that an earlier plugin has frozen is refused when it is registered', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRoute', route => { Object.freeze(route) })
  await app.register(cache)
  t.throws(() => app.get('/orders', { config: { cache: true }, exposeHeadRoute: false }, async () => 'secret'), { code: 'FST_REDIS_SUITE_CACHE_HOOK_REPLACED', message: /GET \/orders/ })
})
