import t, { type Test } from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { waitForReplies } from '../helpers/app/store.js'
import { sharedRedis, startRedis } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

const { build, limits } = await import('../../examples/guides/login.js')

async function start (t: Test) {
  process.env['REDIS_URL'] = (await sharedRedis()).url
  const clock = createTestClock()
  const apps = [await build({ clock }), await build({ clock })]
  t.teardown(() => Promise.all(apps.map(app => app.close())))
  waitForReplies(t, clock, () => apps.map(app => app.redis))
  const login = async (address: string, email: string, password: string, instance = 0) => {
    const app = apps[instance]
    if (app === undefined) throw new Error('no such instance')
    return await app.inject({ method: 'POST', url: '/login', remoteAddress: address, payload: { email, password } })
  }
  const status = async (...args: Parameters<typeof login>) => (await login(...args)).statusCode
  return { apps, clock, login, status }
}

t.test('five failures lock one client out of one account on all instances, and the owner logs in from another address', async t => {
  const { clock, login, status } = await start(t)
  const guesses = await Promise.all(Array.from({ length: 8 }, (_, i) => status('203.0.113.1', ' Ann@Example.com', 'wrong', i % 2)))
  t.same(guesses.sort(), [401, 401, 401, 401, 401, 429, 429, 429], 'also for concurrent guesses on two instances')
  const refused = await login('203.0.113.1', 'ann@example.com', 'correct horse', 1)
  t.equal(refused.statusCode, 429)
  t.equal(refused.headers['retry-after'], '900')
  t.equal(await status('203.0.113.2', 'ann@example.com', 'correct horse', 1), 200)
  await clock.advance('15 minutes')
  t.equal(await status('203.0.113.1', 'ann@example.com', 'correct horse'), 200)
})

t.test('an IPv6 client does not get five more guesses by another address of its network', async t => {
  const { status } = await start(t)
  for (let i = 1; i <= 5; i++) t.equal(await status(`2001:db8:1:2::${i}`, 'ann@example.com', 'wrong'), 401)
  t.equal(await status('2001:db8:1:2::6', 'ann@example.com', 'wrong'), 429)
  t.equal(await status('2001:db8:1:3::6', 'ann@example.com', 'wrong'), 401)
})

t.test('successful logins do not count', async t => {
  const { apps, status } = await start(t)
  for (let i = 0; i < 7; i++) t.equal(await status('203.0.113.3', 'ann@example.com', 'correct horse'), 200)
  const [app] = apps
  const { remaining } = await app?.rateLimiter.peek('203.0.113.3', limits.address) ?? {}
  t.equal(remaining, 30)
})

t.test('one address that tries many accounts, and one account that is tried by many addresses, are limited', async t => {
  const { apps: [app], status } = await start(t)
  await app?.rateLimiter.consume('203.0.113.4', limits.address, 29)
  t.equal(await status('203.0.113.4', 'bob@example.com', 'wrong'), 401, 'an account that does not exist counts like any other')
  t.equal(await status('203.0.113.4', 'eve@example.com', 'wrong', 1), 429)
  await app?.rateLimiter.consume('carol@example.com', limits.account, 99)
  t.equal(await status('203.0.113.5', 'carol@example.com', 'wrong'), 401)
  t.equal(await status('203.0.113.6', 'carol@example.com', 'wrong', 1), 429)
  const { remaining } = await app?.rateLimiter.peek('203.0.113.6 carol@example.com', limits.pair) ?? {}
  t.equal(remaining, 5, 'an attempt that one limit refuses is refunded by the others')
})

t.test('while Redis is down each instance limits by itself, and a correct password is refused without being counted', async t => {
  const server = await startRedis()
  process.env['REDIS_URL'] = server.url
  const app = await build()
  t.teardown(() => app.close())
  await server.kill()
  const login = async (password: string) => (await app.inject({ method: 'POST', url: '/login', remoteAddress: '203.0.113.7', payload: { email: 'ann@example.com', password } })).statusCode
  for (let i = 0; i < 6; i++) t.equal(await login('correct horse'), 503)
  for (let i = 0; i < 5; i++) t.equal(await login('wrong'), 401)
  t.equal(await login('wrong'), 429)
})
