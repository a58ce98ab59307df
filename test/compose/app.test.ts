import autoload from '@fastify/autoload'
import swagger from '@fastify/swagger'
import Fastify, { type FastifyInstance } from 'fastify'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } from '../../plugins/index.js'
import { ask } from '../helpers/cache/cache-app.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const FIXTURE = join(import.meta.dirname, '../fixtures/autoload')
const SECRET = 'a secret of at least thirty-two characters'
const timeout = '5s'

function build (t: Test): FastifyInstance {
  const app = Fastify()
  t.teardown(() => app.close())
  return app
}

const isHit = (app: FastifyInstance, url: string) => until(`${url} is a hit`, async () => (await ask(app, url)).cache === 'HIT')

/** All of them, by name, as a user may register them in any order after redis. */
const ALL: Record<string, (app: FastifyInstance) => unknown> = {
  metrics: app => app.register(metrics),
  rateLimit: app => app.register(rateLimit, { max: 1000, timeout }),
  session: app => app.register(session, { secret: SECRET, cookie: { secure: false }, timeout }),
  cache: app => app.register(cache, { timeout }),
  idempotency: app => app.register(idempotency, { timeout }),
  events: app => app.register(events, { timeout }),
  lock: app => app.register(lock, { timeout }),
  health: app => app.register(health, { details: true })
}

/** That what the plugins promise of one route holds beside all others. */
async function tryAll (t: Test, app: FastifyInstance, prefix = ''): Promise<void> {
  const url = `${prefix}/products/1`
  await isHit(app, url)
  const { body, headers } = await ask(app, url)
  t.equal(headers['x-ratelimit-limit'], '1000', 'a hit is counted')
  const post = () => ask(app, `${prefix}/products`, { 'idempotency-key': 'k' }, { method: 'POST' })
  const first = await post()
  t.match(first, { status: 200, headers: { 'set-cookie': /^sid=/ } })
  const again = await post()
  t.same([again.body, again.headers['idempotency-replayed']], [first.body, 'true'])
  await until('what was stored is gone', async () => (await ask(app, url)).body !== body)
  t.equal((await ask(app, `${prefix}/health`)).status, 200)
  const text = (await ask(app, `${prefix}/metrics`)).body
  t.match(text, `http_request_duration_seconds_count{method="GET",route="${prefix}/products/:id",status_code="200"}`)
  t.match(text, /fastify_cache_requests_total\{.*result="hit"/)
}

function addRoutes (app: FastifyInstance): void {
  let runs = 0
  app.get('/products/:id', { config: { cache: { tags: ['products'] } } }, async () => ({ run: ++runs }))
  app.post('/products', { config: { cache: { invalidates: ['products'] }, idempotency: true } }, async ({ session }) => {
    Reflect.set(session, 'orders', 1)
    return await app.locks.using('stock', async () => ({ run: ++runs }))
  })
}

t.test('@fastify/autoload loads the plugins and the routes that use them from folders', async t => {
  process.env['REDIS_URL'] = server.url
  const app = build(t)
  // It knows some of the ways by which Node.js reads TypeScript, and asks to be told of others.
  process.env['FASTIFY_AUTOLOAD_TYPESCRIPT'] = '1'
  await app.register(autoload, { dir: join(FIXTURE, 'plugins'), forceESM: true })
  await app.register(autoload, { dir: join(FIXTURE, 'routes'), forceESM: true, options: { prefix: '/api' } })
  await app.ready()
  await isHit(app, '/api/products/1')
  const keys = await server.client().keys('autoload:*')
  t.ok(keys.some(key => key.startsWith('autoload:cache:')))
  const post = () => ask(app, '/api/products', { 'idempotency-key': 'k' }, { method: 'POST' })
  t.same((await post()).body, (await post()).body)
})

const names = Object.keys(ALL)
for (const [title, order] of Object.entries({ 'the order of the documentation': names, 'the other way round': names.toReversed() })) {
  t.test(`all plugins together, registered in ${title}, keep their promises`, async t => {
    const app = build(t)
    await app.register(redis, { url: server.url, prefix: title.replaceAll(' ', '-') })
    for (const name of order) await ALL[name]?.(app)
    addRoutes(app)
    await tryAll(t, app)
  })
}

t.test('all plugins together in a child with a prefix serve the child alone', async t => {
  const app = build(t)
  await app.register(async child => {
    await child.register(redis, { url: server.url, prefix: 'child' })
    for (const register of Object.values(ALL)) await register(child)
    addRoutes(child)
  }, { prefix: '/api' })
  app.get('/', { config: { cache: true } }, async () => 'x')
  t.notOk(app.hasDecorator('redis') || app.hasDecorator('cache') || app.hasRequestDecorator('session'))
  await tryAll(t, app, '/api')
  const { headers } = await ask(app, '/')
  t.match([headers['x-cache'], headers['x-ratelimit-limit']], [undefined, undefined])
})

t.test('two children beside each other have plugins of their own, that know nothing of each other', async t => {
  const app = build(t)
  for (const name of ['a', 'b']) {
    await app.register(async child => {
      await child.register(redis, { url: server.url, prefix: name })
      await child.register(rateLimit, { max: name === 'a' ? 1 : 2, timeout })
      await child.register(session, { secret: SECRET, cookie: { secure: false, path: `/${name}` }, timeout })
      await child.register(cache, { timeout })
      child.get('/', { config: { cache: true, rateLimit: false } }, async () => name)
      child.get('/limited', async () => name)
    }, { prefix: `/${name}` })
  }
  for (const name of ['a', 'b']) {
    await isHit(app, `/${name}`)
    t.equal((await ask(app, `/${name}`)).body, name)
  }
  const statuses = []
  for (const url of ['/a', '/a', '/b', '/b', '/b']) statuses.push((await ask(app, `${url}/limited`)).status)
  t.same(statuses, [200, 429, 200, 200, 429])
})

for (const order of ['before', 'after'] as const) {
  t.test(`with @fastify/swagger registered ${order} them, the plugins' own routes are hidden and the user's are told`, async t => {
    const app = build(t)
    const document = async () => await app.register(swagger, { openapi: { info: { title: 'shop', version: '1' } } })
    if (order === 'before') await document()
    for (const register of Object.values(ALL)) await register(app)
    if (order === 'after') await document()
    await app.register(async child => addRoutes(child))
    await app.ready()
    t.same(Object.keys(app.swagger().paths ?? {}).sort(), ['/products', '/products/{id}'])
  })
}
