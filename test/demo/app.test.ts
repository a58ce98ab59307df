import t, { type Test } from 'tap'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/app/client.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { startShop, shopStores } from '../helpers/demo/start-shop.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis({ password: 'a-redis-password' })

const environments: Record<string, NodeJS.ProcessEnv> = {
  memory: {},
  'Redis with a password': { REDIS_URL: server.url },
  Cluster: (await shopStores()).Cluster
}

for (const [name, env] of Object.entries(environments)) {
  t.test(`the demo on ${name}`, async t => {
    const [app] = await startShop(t, { env: { ...env, RATE_LIMIT_MAX: '100' } })
    let address = 0
    const visitor = () => client(app, `10.0.0.${++address}`)
    const isHit = (url: string, who = visitor()) => until(`${url} is a hit`, async () => (await who.send('GET', url)).headers['x-cache'] === 'HIT')

    t.test('a product is a miss, then a hit', async t => {
      const who = visitor()
      const first = await who.send('GET', '/products/1')
      t.match([first.statusCode, first.headers['x-cache'], first.json().id], [200, 'MISS', 1])
      await isHit('/products/1')
    })

    t.test('products are listed, filtered, sorted, paged and searched', async t => {
      const who = visitor()
      const page = (await who.send('GET', '/products?category=kitchen&sort=-price&limit=5&maxPrice=5000')).json()
      t.equal(page.items.length, 5)
      t.ok(page.total > 5)
      t.ok(page.items.every((item: { category: string, priceCents: number }) => item.category === 'kitchen' && item.priceCents <= 5000))
      t.equal((await who.send('GET', '/products/search?q=copper%20kettle')).json().items[0].name.includes('Copper Kettle'), true)
      const refused = []
      for (const url of ['/products?limit=0', '/products?sort=stock', '/products?nonsense=1', '/products/search', '/products/abc', '/products/0']) {
        refused.push((await who.send('GET', url)).json())
      }
      t.same(refused.filter(({ statusCode, error, message }) => statusCode !== 400 || error !== 'Bad Request' || typeof message !== 'string'), [])
      t.match((await who.send('GET', '/products/999999')).json(), { statusCode: 404, message: 'no such product' })
      t.match((await who.send('GET', '/nothing')).json(), { statusCode: 404 })
    })

    t.test('the 101st request of an address is a 429 with Retry-After; another address is served', async t => {
      const who = visitor()
      const codes = []
      for (let i = 0; i < 101; i++) codes.push((await who.send('GET', '/')).statusCode)
      t.same([codes.filter(code => code === 200).length, codes.at(-1)], [100, 429])
      t.ok(Number((await who.send('GET', '/')).headers['retry-after']) > 0)
      t.equal((await visitor().send('GET', '/')).statusCode, 200)
      t.equal((await who.send('GET', '/health')).statusCode, 200, 'probes are not limited')
      const { statusCode, headers } = await who.send('GET', '/docs')
      t.match([statusCode, headers['x-ratelimit-limit']], [200, undefined], 'the documentation is not limited')
    })

    t.test('with RATE_LIMIT_MAX=0 only routes with a limit of their own are limited', async t => {
      const [unlimited] = await startShop(t, { env: { ...env, RATE_LIMIT_MAX: '0' } })
      const who = client(unlimited, '10.8.0.1')
      const statuses = async (url: string, count: number) => {
        const seen = []
        for (let i = 0; i < count; i++) seen.push((await who.send('GET', url)).statusCode)
        return [...new Set(seen)]
      }
      t.same(await statuses('/cart', 150), [200])
      t.same(await statuses('/nothing', 150), [404])
      t.same(await statuses('/limited', 25), [200, 429])
    })

    t.test('metrics are shown to a scrape with the token, and not without it', async t => {
      const [open] = await startShop(t, { env: { ...env, METRICS_TOKEN: 'a-token-of-prometheus' } })
      const status = async (of: typeof app, more: object) => (await of.inject({ url: '/metrics', ...more })).statusCode
      const token = (text: string) => ({ remoteAddress: '10.0.0.5', headers: { authorization: text } })
      t.same([await status(app, {}), await status(app, { remoteAddress: '10.0.0.5' })], [200, 404])
      t.same([await status(open, token('Bearer a-token-of-prometheus')), await status(open, token('Bearer another')), await status(open, {})], [200, 404, 404])
    })

    t.test('a cart survives the login, and its order reduces the stock', async t => {
      const who = visitor()
      t.equal((await who.send('GET', '/me')).statusCode, 401)
      t.equal((await who.send('POST', '/orders')).statusCode, 401)
      t.equal((await who.send('POST', '/cart/items', { productId: 7, quantity: 2 })).json().items[0].quantity, 2)
      const before = who.cookies['sid']
      t.match((await who.send('POST', '/login', { email: 'user7@example.com', password: DEMO_PASSWORD })).json(), { name: 'User 7' })
      t.not(who.cookies['sid'], before, 'the login gave a new id')
      t.equal((await who.send('GET', '/cart')).json().items[0].quantity, 2)

      const { stock } = (await visitor().send('GET', '/products/7')).json()
      const orders = (await who.send('GET', '/me')).json().orders
      t.match((await who.send('POST', '/orders')).json(), { orderId: Number, totalCents: Number })
      t.equal((await visitor().send('GET', '/products/7')).json().stock, stock - 2, 'the cached product is invalidated')
      t.equal((await who.send('GET', '/me')).json().orders, orders + 1)
      t.same((await who.send('GET', '/cart')).json().items, [])
      t.equal((await who.send('POST', '/orders')).statusCode, 409)
      t.equal((await who.send('POST', '/logout')).statusCode, 200)
      t.equal((await who.send('GET', '/me')).statusCode, 401)
    })

    t.test('a cart that is ordered 20 times at once is one order', async t => {
      const who = visitor()
      await who.send('POST', '/login', { email: 'user51@example.com', password: DEMO_PASSWORD })
      await who.send('POST', '/cart/items', { productId: 51, quantity: 1 })
      const count = async () => (await app.db.query<{ orders: number, stock: number }>(
        'SELECT (SELECT count(*)::int FROM orders) AS orders, (SELECT stock FROM products WHERE id = 51) AS stock'))[0]!
      const sold = async () => (await app.leaderboard.top(10_000)).find(({ productId }) => productId === 51)?.sold ?? 0
      const [before, soldBefore] = [await count(), await sold()]

      // None begins before all have read the same cart.
      const { transaction } = app.db
      let waiting = 0
      app.db.transaction = async work => {
        waiting++
        await until('all requests have read the cart', () => waiting >= 20)
        return await transaction(work)
      }
      const answers = await Promise.all(Array.from({ length: 20 }, () => who.send('POST', '/orders')))
      app.db.transaction = transaction

      const placed = answers.filter(({ statusCode }) => statusCode === 200)
      t.equal(new Set(placed.map(({ body }) => body)).size, 1, 'all get the same order')
      t.same(answers.filter(({ statusCode }) => statusCode !== 200 && statusCode !== 409), [], 'or, when they came late, an empty cart')
      t.match(placed[0]?.json(), { orderId: Number, totalCents: Number })
      t.same(await count(), { orders: before.orders + 1, stock: before.stock - 1 })
      t.equal(await sold(), soldBefore + 1, 'the best sellers count it once')

      await who.send('POST', '/cart/items', { productId: 51, quantity: 1 })
      const next = (await who.send('POST', '/orders')).json()
      t.not(next.orderId, placed[0]?.json().orderId, 'the next cart is another order')
      t.same(await count(), { orders: before.orders + 2, stock: before.stock - 2 })
    })

    t.test('an item that is added during the order stays in the cart', async t => {
      const who = visitor()
      await who.send('POST', '/login', { email: 'user52@example.com', password: DEMO_PASSWORD })
      await who.send('POST', '/cart/items', { productId: 52, quantity: 1 })
      const { transaction } = app.db
      app.db.transaction = async work => {
        await transaction(work)
        await who.send('POST', '/cart/items', { productId: 52, quantity: 2 })
        await who.send('POST', '/cart/items', { productId: 53, quantity: 1 })
        // As where the other request is the last to save.
        throw new Error('the answer is lost')
      }
      t.equal((await who.send('POST', '/orders')).statusCode, 500)
      app.db.transaction = transaction

      t.match((await who.send('POST', '/orders')).json(), { orderId: Number }, 'the order that stands')
      const { items } = (await who.send('GET', '/cart')).json()
      t.match(items, [{ productId: 52, quantity: 2 }, { productId: 53, quantity: 1 }])
      t.equal((await who.send('POST', '/orders')).statusCode, 200)
      t.same((await who.send('GET', '/cart')).json().items, [])
    })

    t.test('profiles are cached per user', async t => {
      const [ann, bob] = [visitor(), visitor()]
      await ann.send('POST', '/login', { email: 'user11@example.com', password: DEMO_PASSWORD })
      await bob.send('POST', '/login', { email: 'user12@example.com', password: DEMO_PASSWORD })
      await isHit('/me', ann)
      t.equal((await bob.send('GET', '/me')).json().email, 'user12@example.com')
      await ann.send('PATCH', '/me', { name: 'Ann' })
      t.match((await ann.send('GET', '/me')).json(), { email: 'user11@example.com', name: 'Ann' })
    })

    t.test('a user sees the own sessions, and ends those of other devices', async t => {
      const devices = [visitor(), visitor(), visitor()] as const
      for (const device of devices) await device.send('POST', '/login', { email: 'user21@example.com', password: DEMO_PASSWORD })
      const list = (await devices[0].send('GET', '/me/sessions')).json()
      t.equal(list.length, 3)
      t.equal(list.filter((session: { current: boolean }) => session.current).length, 1)
      const stranger = visitor()
      await stranger.send('POST', '/login', { email: 'user22@example.com', password: DEMO_PASSWORD })
      const other = list.find((session: { current: boolean }) => !session.current)
      t.equal((await stranger.send('DELETE', `/me/sessions/${other.handle}`)).statusCode, 404, 'a session of another user')
      t.equal((await devices[0].send('DELETE', `/me/sessions/${other.handle}`)).statusCode, 200)
      t.same((await devices[0].send('DELETE', '/me/sessions')).json(), { ended: 1 })
      t.same([(await devices[1].send('GET', '/me')).statusCode, (await devices[2].send('GET', '/me')).statusCode], [401, 401])
      t.equal((await devices[0].send('GET', '/me')).statusCode, 200)
    })

    t.test('failed logins are limited per account, also concurrent ones; successful logins do not count', async t => {
      const good = visitor()
      const statuses = []
      for (let i = 0; i < 6; i++) statuses.push((await good.send('POST', '/login', { email: 'user31@example.com', password: DEMO_PASSWORD })).statusCode)
      t.same(statuses, Array(6).fill(200))
      const guesses = await Promise.all(Array.from({ length: 15 }, () => visitor().send('POST', '/login', { email: 'user31@example.com', password: 'guess' })))
      t.equal(guesses.filter(({ statusCode }) => statusCode === 401).length, 5)
      const refused = guesses.filter(({ statusCode }) => statusCode === 429)
      t.equal(refused.length, 10)
      t.ok(refused.every(({ headers }) => Number(headers['retry-after']) > 0))
      t.equal((await visitor().send('POST', '/login', { email: 'user32@example.com', password: DEMO_PASSWORD })).statusCode, 200)
    })

    t.test('an admin changes a product, and the next request shows the change', async t => {
      const [admin, user] = [visitor(), visitor()]
      await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })
      await user.send('POST', '/login', { email: 'user41@example.com', password: DEMO_PASSWORD })
      await isHit('/products/9')
      t.equal((await user.send('PUT', '/products/9', { priceCents: 1 })).statusCode, 403)
      t.equal((await admin.send('PUT', '/products/9', { priceCents: 4321 })).json().priceCents, 4321)
      t.equal((await visitor().send('GET', '/products/9')).json().priceCents, 4321)
      t.equal((await admin.send('PUT', '/products/9', { price: 1 })).statusCode, 400)
    })

    t.test('best sellers, the reports, the OpenAPI document and health are served', async t => {
      const who = visitor()
      const top = (await who.send('GET', '/leaderboard?limit=3')).json()
      t.ok(top.length === 3 && top[0].sold >= top[1].sold)
      t.ok((await who.send('GET', '/reports/sales')).json().length > 30)
      t.ok((await who.send('GET', '/reports/views')).json().items.length > 0)
      const { paths } = (await who.send('GET', '/docs/json')).json()
      t.ok('/products/{id}' in paths && '/me/sessions' in paths)
      t.equal((await who.send('GET', '/docs')).statusCode, 200)
      t.equal((await who.send('GET', '/health')).json().status, 'pass')
    })
  })
}

t.test('an internal error is logged, and its message is not sent', async (t: Test) => {
  const { logger, lines } = collectLog()
  const [app] = await startShop(t, { loggerInstance: logger, routes: app => { app.get('/broken', async () => { throw new Error('the password is hunter2') }) } })
  const response = await app.inject('/broken')
  t.same(response.json(), { statusCode: 500, error: 'Internal Server Error', message: 'something went wrong here' })
  t.match(lines.filter(({ level }) => level === 50), [{ err: { message: 'the password is hunter2' } }])
})

t.test('a device that is logged out at one instance is logged out at the other', async t => {
  const [a, b = t.fail('two instances') as never] = await startShop(t, { env: (await shopStores()).Redis, instances: 2 })

  const devices = [client(a, '192.0.2.1'), client(a, '192.0.2.2'), client(a, '192.0.2.3')] as const
  for (const device of devices) t.equal((await device.send('POST', '/login', { email: 'user7@example.com', password: DEMO_PASSWORD })).statusCode, 200)
  const onB = devices.map((device, i) => {
    const same = client(b, `192.0.2.${i + 1}`)
    Object.assign(same.cookies, device.cookies)
    return same
  })
  const statuses = () => Promise.all(onB.map(async device => (await device.send('GET', '/me')).statusCode))
  t.same(await statuses(), [200, 200, 200])

  const list = (await onB[0]?.send('GET', '/me/sessions'))?.json() as Array<{ handle: string, address: string, current: boolean }>
  t.same(list.map(({ address }) => address).sort(), ['192.0.2.1', '192.0.2.2', '192.0.2.3'])
  t.same(list.filter(({ current }) => current).map(({ address }) => address), ['192.0.2.1'])
  const second = list.find(({ address }) => address === '192.0.2.2')
  t.equal((await devices[0].send('DELETE', `/me/sessions/${second?.handle}`)).statusCode, 200)
  t.same(await statuses(), [200, 401, 200])
  t.same((await devices[0].send('DELETE', '/me/sessions')).json(), { ended: 1 })
  t.same(await statuses(), [200, 401, 401])
})
