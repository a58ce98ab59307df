import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { waitForReplies } from '../helpers/app/store.js'
import { sharedRedis, until } from '../helpers/index.js'

process.env['REDIS_URL'] = (await sharedRedis()).url
process.env['LOG_LEVEL'] = 'silent'

const pages = await import('../../examples/guides/logged-in-pages.js')
const jwtPages = await import('../../examples/guides/logged-in-pages-jwt.js')

type Build = (options: { clock: ReturnType<typeof createTestClock> }) => Promise<FastifyInstance>

async function start (t: Test, build: Build) {
  await (await sharedRedis()).client().flushall()
  const clock = createTestClock()
  const [one, two] = [await build({ clock }), await build({ clock })]
  t.teardown(() => Promise.all([one.close(), two.close()]))
  waitForReplies(t, clock, () => [one.redis, two.redis])
  return { one, two, clock }
}

async function login (app: FastifyInstance, user: string) {
  const { cookies: [cookie] } = await app.inject({ method: 'POST', url: `/login/${user}` })
  return { cookie: `${cookie?.name}=${encodeURIComponent(cookie?.value ?? '')}` }
}

async function get (app: FastifyInstance, url: string, headers: Record<string, string> = {}) {
  const response = await app.inject({ url, headers })
  return { status: response.statusCode, cache: response.headers['x-cache'], control: response.headers['cache-control'], body: response.json() }
}

async function untilStored (app: FastifyInstance, url: string, headers: Record<string, string> = {}) {
  await until('the response is stored', async () => (await get(app, url, headers)).cache === 'HIT')
}

t.test('each user has a stored response on all instances, which no other caller gets', async t => {
  const { one, two } = await start(t, pages.build)
  const [ann, bob] = [await login(one, 'ann'), await login(two, 'bob')]
  t.match(await get(one, '/orders', ann), { cache: 'MISS', control: 'private', body: { user: 'ann' } })
  await untilStored(two, '/orders', ann)
  t.match(await get(two, '/orders', bob), { cache: 'MISS', body: { user: 'bob', orders: ['kettle'] } })
  t.match(await get(two, '/orders', ann), { cache: 'HIT', control: 'private', body: { user: 'ann' } })
  t.match(await get(two, '/orders'), { status: 401, control: 'private' })
})

t.test('a write invalidates the pages of its user alone', async t => {
  const { one, two } = await start(t, pages.build)
  t.teardown(() => pages.orders.set('ann', ['teapot']))
  const [ann, bob] = [await login(one, 'ann'), await login(one, 'bob')]
  for (const user of [ann, bob]) {
    await get(one, '/orders', user)
    await untilStored(one, '/orders', user)
  }
  await two.inject({ method: 'POST', url: '/orders', headers: ann, payload: { product: 'cup' } })
  t.match(await get(two, '/orders', ann), { body: { orders: ['teapot', 'cup'] } })
  t.match(await get(two, '/orders', bob), { cache: 'HIT', body: { orders: ['kettle'] } })
})

t.test('users who are logged in share a public page with guests, and a team shares its page', async t => {
  const { one, two } = await start(t, pages.build)
  const [ann, bob, eve] = [await login(one, 'ann'), await login(one, 'bob'), await login(one, 'eve')]
  t.equal((await get(one, '/products')).cache, 'MISS')
  await untilStored(two, '/products', ann)
  t.match(await get(one, '/team', ann), { cache: 'MISS', body: { team: 'red' } })
  await untilStored(two, '/team', bob)
  t.match(await get(two, '/team', eve), { cache: 'MISS', body: { team: 'blue' } })
})

t.test('after a logout the stored page is not sent', async t => {
  const { one, two } = await start(t, pages.build)
  const ann = await login(one, 'ann')
  await get(one, '/orders', ann)
  await untilStored(two, '/orders', ann)
  await one.inject({ method: 'POST', url: '/logout', headers: ann })
  t.equal((await get(two, '/orders', ann)).status, 401)
})

t.test('with a JSON Web Token each subject has a response, and an expired token gets none', async t => {
  const { one, two } = await start(t, jwtPages.build)
  const bearer = (sub: string, expiresIn = '1h') => ({ authorization: `Bearer ${one.jwt.sign({ sub }, { expiresIn })}` })
  t.match(await get(one, '/me', bearer('ann')), { cache: 'MISS', control: 'private', body: { user: 'ann' } })
  await untilStored(two, '/me', bearer('ann', '2h'))
  t.match(await get(two, '/me', bearer('bob')), { cache: 'MISS', body: { user: 'bob' } })
  t.equal((await get(two, '/me', { authorization: `Bearer ${one.jwt.sign({ sub: 'ann', exp: 1 })}` })).status, 401)
  t.equal((await get(two, '/me')).status, 401)
  t.equal((await get(one, '/products', bearer('ann'))).cache, 'MISS')
  await untilStored(two, '/products')
})

t.test('with a JSON Web Token the limit counts the subject, whatever the address', async t => {
  const { one, two } = await start(t, jwtPages.build)
  const remaining = async (app: FastifyInstance, sub: string, remoteAddress: string) =>
    (await app.inject({ url: '/me', remoteAddress, headers: { authorization: `Bearer ${one.jwt.sign({ sub })}` } })).headers['x-ratelimit-remaining']
  t.same([await remaining(one, 'ann', '203.0.113.1'), await remaining(two, 'ann', '203.0.113.2'), await remaining(two, 'bob', '203.0.113.1')], ['99', '98', '99'])
})
