import t, { type Test } from 'tap'
import { DEMO_PASSWORD } from '../demo/seed.js'
import { client } from './helpers/app/client.js'
import { startShop, shopStores } from './helpers/demo/start-shop.js'
import { startRedis, until } from './helpers/index.js'

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
      for (const url of ['/products?limit=0', '/products?sort=stock', '/products?nonsense=1', '/products/search', '/products/abc', '/products/0']) {
        t.match((await who.send('GET', url)).json(), { statusCode: 400, error: 'Bad Request', message: String }, url)
      }
      t.match((await who.send('GET', '/products/999999')).json(), { statusCode: 404, message: 'no such product' })
      t.match((await who.send('GET', '/nothing')).json(), { statusCode: 404 })
    })

    t.test('101 quick requests of one address see a 429 with Retry-After, and another address does not', async t => {
      const who = visitor()
      const codes = []
      for (let i = 0; i < 101; i++) codes.push((await who.send('GET', '/')).statusCode)
      t.same([codes.filter(code => code === 200).length, codes.at(-1)], [100, 429])
      t.ok(Number((await who.send('GET', '/')).headers['retry-after']) > 0)
      t.equal((await visitor().send('GET', '/')).statusCode, 200)
      t.equal((await who.send('GET', '/health')).statusCode, 200, 'probes are not limited')
      const { statusCode, headers } = await who.send('GET', '/docs')
      t.match([statusCode, headers['x-ratelimit-limit']], [200, undefined], 'nor is the documentation')
    })

    t.test('a cart is kept from before the login to the order, which takes from the stock', async t => {
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
      t.equal((await visitor().send('GET', '/products/7')).json().stock, stock - 2, 'the cached product is gone')
      t.equal((await who.send('GET', '/me')).json().orders, orders + 1)
      t.same((await who.send('GET', '/cart')).json().items, [])
      t.equal((await who.send('POST', '/orders')).statusCode, 409)
      t.equal((await who.send('POST', '/logout')).statusCode, 200)
      t.equal((await who.send('GET', '/me')).statusCode, 401)
    })

    t.test('a cart that is ordered many times at once is one order', async t => {
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
        await until('all are there', () => waiting >= 20)
        return await transaction(work)
      }
      const answers = await Promise.all(Array.from({ length: 20 }, () => who.send('POST', '/orders')))
      app.db.transaction = transaction

      const told = answers.filter(({ statusCode }) => statusCode === 200)
      t.same(new Set(told.map(({ body }) => body)).size, 1, 'all are told the same')
      t.ok(answers.every(({ statusCode }) => statusCode === 200 || statusCode === 409), 'or, when they came late, that the cart is empty')
      t.match(told[0]?.json(), { orderId: Number, totalCents: Number })
      t.same(await count(), { orders: before.orders + 1, stock: before.stock - 1 })
      t.equal(await sold(), soldBefore + 1, 'the best sellers count it once')

      await who.send('POST', '/cart/items', { productId: 51, quantity: 1 })
      const next = (await who.send('POST', '/orders')).json()
      t.not(next.orderId, told[0]?.json().orderId, 'the next cart is another order')
      t.same(await count(), { orders: before.orders + 2, stock: before.stock - 2 })
    })

    t.test('what comes into the cart while it is being ordered stays in it', async t => {
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

    t.test('profiles are cached a user', async t => {
      const [ann, bob] = [visitor(), visitor()]
      await ann.send('POST', '/login', { email: 'user11@example.com', password: DEMO_PASSWORD })
      await bob.send('POST', '/login', { email: 'user12@example.com', password: DEMO_PASSWORD })
      await isHit('/me', ann)
      t.equal((await bob.send('GET', '/me')).json().email, 'user12@example.com')
      await ann.send('PATCH', '/me', { name: 'Ann' })
      t.match((await ann.send('GET', '/me')).json(), { email: 'user11@example.com', name: 'Ann' })
    })

    t.test('a user sees where they are logged in, and ends it elsewhere', async t => {
      const devices = [visitor(), visitor(), visitor()] as const
      for (const device of devices) await device.send('POST', '/login', { email: 'user21@example.com', password: DEMO_PASSWORD })
      const list = (await devices[0].send('GET', '/me/sessions')).json()
      t.equal(list.length, 3)
      t.equal(list.filter((session: { current: boolean }) => session.current).length, 1)
      const stranger = visitor()
      await stranger.send('POST', '/login', { email: 'user22@example.com', password: DEMO_PASSWORD })
      const other = list.find((session: { current: boolean }) => !session.current)
      t.equal((await stranger.send('DELETE', `/me/sessions/${other.handle}`)).statusCode, 404, 'not those of others')
      t.equal((await devices[0].send('DELETE', `/me/sessions/${other.handle}`)).statusCode, 200)
      t.same((await devices[0].send('DELETE', '/me/sessions')).json(), { ended: 1 })
      t.same([(await devices[1].send('GET', '/me')).statusCode, (await devices[2].send('GET', '/me')).statusCode], [401, 401])
      t.equal((await devices[0].send('GET', '/me')).statusCode, 200)
    })

    t.test('failed logins are limited by account, also when they come at once, and successful ones do not count', async t => {
      const good = visitor()
      for (let i = 0; i < 8; i++) t.equal((await good.send('POST', '/login', { email: 'user31@example.com', password: DEMO_PASSWORD })).statusCode, 200)
      const guesses = await Promise.all(Array.from({ length: 20 }, () => visitor().send('POST', '/login', { email: 'user31@example.com', password: 'guess' })))
      t.equal(guesses.filter(({ statusCode }) => statusCode === 401).length, 5)
      const refused = guesses.filter(({ statusCode }) => statusCode === 429)
      t.equal(refused.length, 15)
      t.ok(refused.every(({ headers }) => Number(headers['retry-after']) > 0))
      t.equal((await visitor().send('POST', '/login', { email: 'user32@example.com', password: DEMO_PASSWORD })).statusCode, 200)
    })

    t.test('an admin changes a product, and the next reader sees it', async t => {
      const [admin, user] = [visitor(), visitor()]
      await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })
      await user.send('POST', '/login', { email: 'user41@example.com', password: DEMO_PASSWORD })
      await isHit('/products/9')
      t.equal((await user.send('PUT', '/products/9', { priceCents: 1 })).statusCode, 403)
      t.equal((await admin.send('PUT', '/products/9', { priceCents: 4321 })).json().priceCents, 4321)
      t.equal((await visitor().send('GET', '/products/9')).json().priceCents, 4321)
      t.equal((await admin.send('PUT', '/products/9', { price: 1 })).statusCode, 400)
    })

    t.test('best sellers, the report, OpenAPI and health answer', async t => {
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

t.test('a fault inside is logged and not told', async (t: Test) => {
  const [app] = await startShop(t, { routes: app => { app.get('/broken', async () => { throw new Error('the password is hunter2') }) } })
  const response = await app.inject('/broken')
  t.same(response.json(), { statusCode: 500, error: 'Internal Server Error', message: 'something went wrong here' })
})
