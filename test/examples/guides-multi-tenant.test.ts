import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { waitForReplies } from '../helpers/app/store.js'
import { sharedRedis, until } from '../helpers/index.js'

process.env['REDIS_URL'] = (await sharedRedis()).url
process.env['LOG_LEVEL'] = 'silent'

const { build } = await import('../../examples/guides/multi-tenant.js')

/** A client of one tenant with a cookie jar. */
class Visitor {
  cookie = ''
  readonly #app: FastifyInstance
  readonly #host: string

  constructor (app: FastifyInstance, tenant: string) {
    this.#app = app
    this.#host = `${tenant}.localhost:3000`
  }

  async send (method: 'GET' | 'POST', url: string, { payload, headers = {} }: { payload?: object, headers?: Record<string, string> } = {}) {
    const response = await this.#app.inject({ method, url, headers: { ...headers, host: this.#host, cookie: this.cookie }, ...payload !== undefined && { payload } })
    const [cookie] = response.cookies
    if (cookie !== undefined) this.cookie = `${cookie.name}=${encodeURIComponent(cookie.value)}`
    return response
  }
}

async function start (t: Test) {
  await (await sharedRedis()).client().flushall()
  const clock = createTestClock()
  const [one, two] = [await build({ clock }), await build({ clock })]
  t.teardown(() => Promise.all([one.close(), two.close()]))
  waitForReplies(t, clock, () => [one.redis, two.redis])
  return { one, two }
}

t.test('responses and values of one tenant do not reach another, and are cleared alone', async t => {
  const { one, two } = await start(t)
  const [acme, globex] = [new Visitor(one, 'acme'), new Visitor(two, 'globex')]
  for (const [visitor, product] of [[acme, 'anvil'], [globex, 'pendulum']] as const) {
    t.same((await visitor.send('GET', '/products')).json(), [product])
    await until('the response is stored', async () => (await visitor.send('GET', '/products')).headers['x-cache'] === 'HIT')
    t.same((await visitor.send('GET', '/products')).json(), [product])
    t.same((await visitor.send('GET', '/report')).json(), { products: 1 })
  }
  await new Visitor(two, 'acme').send('POST', '/cache/clear')
  await until('the responses of acme are gone', async () => (await acme.send('GET', '/products')).headers['x-cache'] === 'MISS')
  t.equal((await globex.send('GET', '/products')).headers['x-cache'], 'HIT')
  t.equal(await two.cache.withPrefix('tenant-acme').has('report'), false)
  t.equal(await two.cache.withPrefix('tenant-globex').has('report'), true)
  t.equal((await one.inject({ url: '/products', headers: { host: 'evil.test' } })).statusCode, 404)
})

t.test('a client that uses up its limit at one tenant has all of it at another', async t => {
  const { one, two } = await start(t)
  const [acme, globex] = [new Visitor(one, 'acme'), new Visitor(two, 'globex')]
  for (let i = 0; i < 100; i++) await acme.send('GET', '/sessions')
  t.equal((await new Visitor(two, 'acme').send('GET', '/sessions')).statusCode, 429)
  t.equal((await globex.send('GET', '/sessions')).statusCode, 200)
})

t.test('a tenant as a whole has a limit', async t => {
  const { one, two } = await start(t)
  const statuses = await Promise.all(Array.from({ length: 1001 }, async (_, i) =>
    (await one.inject({ url: '/sessions', remoteAddress: `198.51.100.${i % 200}`, headers: { host: 'acme.localhost' } })).statusCode))
  t.equal(statuses.filter(status => status === 429).length, 1)
  t.equal((await two.inject({ url: '/sessions', remoteAddress: '198.51.100.1', headers: { host: 'globex.localhost' } })).statusCode, 200)
})

t.test('a session is refused at another tenant, and users of one name share nothing', async t => {
  const { one, two } = await start(t)
  const [acme, globex] = [new Visitor(one, 'acme'), new Visitor(two, 'globex')]
  await acme.send('POST', '/login/ann')
  await globex.send('POST', '/login/ann')
  t.equal((await acme.send('GET', '/sessions')).json().length, 1)
  t.equal((await globex.send('GET', '/sessions')).json().length, 1)
  const thief = new Visitor(one, 'globex')
  thief.cookie = acme.cookie
  t.equal((await thief.send('GET', '/sessions')).statusCode, 401)
  await one.sessions.destroyAll('acme/ann')
  t.same((await acme.send('GET', '/sessions')).json(), [])
  t.equal((await globex.send('GET', '/sessions')).json().length, 1)
})

t.test('an idempotency key is replayed within its tenant only', async t => {
  const { one, two } = await start(t)
  const [acme, globex] = [new Visitor(one, 'acme'), new Visitor(two, 'globex')]
  await acme.send('POST', '/login/ann')
  await globex.send('POST', '/login/ann')
  const order = { payload: { product: 'tea' }, headers: { 'idempotency-key': 'k1' } }
  t.equal((await acme.send('POST', '/orders', order)).json().shop, 'acme')
  const again = await acme.send('POST', '/orders', order)
  t.equal(again.headers['idempotency-replayed'], 'true')
  const other = await globex.send('POST', '/orders', order)
  t.match(other.json(), { shop: 'globex' })
})

t.test('live events reach the browsers of their tenant only', async t => {
  const { one, two } = await start(t)
  const texts = { acme: '', globex: '' }
  for (const tenant of ['acme', 'globex'] as const) {
    const response = await one.inject({ url: '/live', headers: { host: `${tenant}.localhost` }, payloadAsStream: true })
    response.stream().on('data', chunk => { texts[tenant] += chunk })
  }
  const acme = new Visitor(two, 'acme')
  const globex = new Visitor(two, 'globex')
  await acme.send('POST', '/orders', { payload: { product: 'anvil' } })
  await globex.send('POST', '/orders', { payload: { product: 'pendulum' } })
  await until('both browsers have their orders', () => texts.acme.includes('anvil') && texts.globex.includes('pendulum'))
  t.notMatch(texts.acme, /pendulum/)
  t.notMatch(texts.globex, /anvil/)
})
