import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { sharedRedis, until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

const { build } = await import('../../examples/guides/without-redis.js')
const { url } = await sharedRedis()

async function start (t: Test, url: string): Promise<[FastifyInstance, FastifyInstance]> {
  await (await sharedRedis()).client().flushall()
  const apps: [FastifyInstance, FastifyInstance] = [await build({ url }), await build({ url })]
  t.teardown(() => Promise.all(apps.map(app => app.close())))
  return apps
}

async function limitedOf (...apps: FastifyInstance[]) {
  const statuses = []
  for (const app of apps) statuses.push((await app.inject('/limited')).statusCode)
  return statuses
}

async function login (app: FastifyInstance) {
  const { cookies: [cookie] } = await app.inject({ method: 'POST', url: '/login/ann' })
  return { cookie: `${cookie?.name}=${encodeURIComponent(cookie?.value ?? '')}` }
}

const userOf = async (app: FastifyInstance, headers: { cookie: string }) => (await app.inject({ url: '/me', headers })).json().user
const pay = async (app: FastifyInstance) => {
  const response = await app.inject({ method: 'POST', url: '/payments', headers: { authorization: 'Bearer ann', 'idempotency-key': 'k1' } })
  return [response.json().payment, response.headers['idempotency-replayed']]
}
const reportOf = async (app: FastifyInstance) => {
  const response = await app.inject('/report')
  return [response.json().report, response.headers['x-cache']]
}

// An empty string: REDIS_URL is not read.
for (const [name, address] of [['without Redis', ''], ['with Redis', url]] as const) {
  t.test(`${name} all plugins keep their promises within one process`, async t => {
    const [app] = await start(t, address)
    t.same(await limitedOf(app, app, app, app), [200, 200, 200, 429])
    t.equal(await userOf(app, await login(app)), 'ann')
    t.same(await reportOf(app), [1, 'MISS'])
    await until('the report is stored', async () => (await reportOf(app))[1] === 'HIT')
    t.same([await pay(app), await pay(app)], [[1, undefined], [1, 'true']])
    const held = await app.locks.acquire('job', { wait: 0 })
    t.equal((await app.inject({ method: 'POST', url: '/jobs' })).statusCode, 423)
    await held.release()
    t.equal((await app.inject({ method: 'POST', url: '/jobs' })).statusCode, 200)
    await until('the process hears its own event', async () => (await app.inject('/news')).json().length === 1)
  })
}

t.test('without Redis two processes share nothing', async t => {
  const [one, two] = await start(t, '')
  t.same(await limitedOf(one, two, one, two, one, two), [200, 200, 200, 200, 200, 200], 'twice the limit')
  t.equal(await userOf(two, await login(one)), null)
  await reportOf(one)
  t.same(await reportOf(two), [1, 'MISS'])
  t.same([await pay(one), await pay(two)], [[1, undefined], [1, undefined]], 'paid twice')
  await one.locks.acquire('job', { wait: 0 })
  t.equal((await two.inject({ method: 'POST', url: '/jobs' })).statusCode, 200)
  t.same((await one.inject('/news')).json(), [])
})

t.test('with Redis two processes share all of it', async t => {
  const [one, two] = await start(t, url)
  t.same(await limitedOf(one, two, one, two), [200, 200, 200, 429])
  t.equal(await userOf(two, await login(one)), 'ann')
  await reportOf(one)
  await until('the report is stored', async () => (await reportOf(two))[1] === 'HIT')
  t.same([await pay(one), await pay(two)], [[1, undefined], [1, 'true']])
  const held = await one.locks.acquire('job', { wait: 0 })
  t.equal((await two.inject({ method: 'POST', url: '/jobs' })).statusCode, 423)
  await held.release()
  await two.inject({ method: 'POST', url: '/jobs' })
  await until('the other process hears the event', async () => (await one.inject('/news')).json().length === 1)
})

t.test('more than one instance without Redis does not start', async t => {
  await t.rejects(build({ url: '', instances: '2' }), { message: /REDIS_URL is required/ })
})
