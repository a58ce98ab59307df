// The tests of `testing-your-app.ts`, for the test runner of Node.js:
// `node --import tsx --test examples/guides/testing-your-app.tests.ts`. With REDIS_URL those of Redis
// run as well.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { build, type ShopOptions } from './testing-your-app.js'

process.env['LOG_LEVEL'] ??= 'silent'

/** An app for one test, with a clock of its own. It is closed with the test. */
async function open (t: TestContext, options: ShopOptions = {}) {
  const clock = createTestClock()
  const app = await build({ clock, ...options })
  t.after(async () => await app.close())
  const login = async (user = 'ann') => {
    const response = await app.inject({ method: 'POST', url: '/login', payload: { user } })
    const cookies = Object.fromEntries(response.cookies.map(({ name, value }) => [name, value]))
    return { status: response.statusCode, cookies }
  }
  return { app, clock, login }
}

/** Waits for an effect of work in the background. Its timers wait for the clock, which moves on meanwhile. */
async function until (clock: TestClock, check: () => boolean | Promise<boolean>): Promise<void> {
  for (let turns = 0; !await check(); turns++) {
    assert.ok(turns < 1000, 'waited in vain')
    await clock.advance(100)
  }
}

test('the sixth login within 15 minutes is refused', async t => {
  const { clock, login } = await open(t)
  for (let i = 0; i < 5; i++) assert.equal((await login()).status, 200)
  assert.equal((await login()).status, 429)
  await clock.advance('15 minutes')
  assert.equal((await login()).status, 200)
})

test('a session ends after half an hour without a request', async t => {
  const { app, clock, login } = await open(t)
  const { cookies } = await login()
  assert.equal((await app.inject({ url: '/me', cookies })).body, 'ann')
  await clock.advance('31 minutes')
  assert.equal((await app.inject({ url: '/me', cookies })).statusCode, 401)
})

test('a product is cached, and its new price is seen at once', async t => {
  const { app } = await open(t)
  const get = async () => await app.inject('/products/teapot')
  assert.equal((await get()).headers['x-cache'], 'MISS')
  assert.equal((await get()).headers['x-cache'], 'HIT')
  await app.inject({ method: 'PUT', url: '/products/teapot', payload: { price: 25 } })
  assert.deepEqual((await get()).json(), { price: 25 })
})

test('an order that is sent twice sends one mail', async t => {
  const sent: string[] = []
  const { app, clock, login } = await open(t, { sendMail: async to => { sent.push(to) } })
  const { cookies } = await login()
  const headers = { 'idempotency-key': 'order-7' }
  const order = async () => await app.inject({ method: 'POST', url: '/orders', cookies, headers })
  assert.equal((await order()).statusCode, 201)
  assert.equal((await order()).headers['idempotency-replayed'], 'true')
  await until(clock, () => sent.length > 0)
  assert.deepEqual(sent, ['ann'])
})

test('without Redis products are served, limits hold, and logins are refused', async t => {
  // Nothing listens on port 1. `required: false` lets the app start all the same.
  const redis = { url: 'redis://127.0.0.1:1', required: false, connectTimeout: 50 }
  const { app, login } = await open(t, { redis })
  assert.equal((await app.inject('/products/teapot')).statusCode, 200)
  assert.equal((await login()).status, 503)
})

// A prefix per test: tests may then run at the same time on one server, and need no FLUSHALL.
const url = process.env['REDIS_URL']
const onRedis = () => ({ redis: { url, prefix: `test-${randomUUID()}` } })

test('two instances share sessions, and a new price', { skip: url === undefined }, async t => {
  const options = onRedis()
  const [one, two] = [await open(t, options), await open(t, options)]
  const { cookies } = await one.login()
  assert.equal((await two.app.inject({ url: '/me', cookies })).body, 'ann')
  await two.app.inject('/products/teapot')
  await one.app.inject({ method: 'PUT', url: '/products/teapot', payload: { price: 25 } })
  // The other instance removes its copy when it has heard of the write.
  const outcome = async () => (await two.app.inject('/products/teapot')).headers['x-cache']
  await until(two.clock, async () => await outcome() === 'MISS')
})
