import { randomUUID } from 'node:crypto'
import type { LightMyRequestResponse } from 'fastify'
import t from 'tap'
import { schemaSql, triggerSql } from '../../demo/schema.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { client, type Method } from '../helpers/app/client.js'
import { sendOddRequests } from '../helpers/demo/odd-requests.js'
import { shopStores, startShop } from '../helpers/demo/start-shop.js'
import { advanceUntil, advanceWhile, sharedRedis, startRedis, until } from '../helpers/index.js'

const NUL = '\u0000'
const TOO_LARGE = 2 ** 31
const VISITORS = 100
/** A HyperLogLog is exact to 0.8 %; this is three times as much. */
const TOLERANCE = 3
/** The number of pieces of each sale, which has ten times as many buyers. */
const PIECES = 5

const server = await startRedis()
const stores = await shopStores()
const sales = {
  memory: { env: stores.memory, instances: 1 },
  Redis: { env: stores.Redis, instances: 2 },
  Cluster: { env: stores.Cluster, instances: 1 }
}

for (const [name, env] of Object.entries({ ...stores, Redis: { REDIS_URL: server.url } })) {
  t.test(`statistics on ${name}`, async t => {
    const [app] = await startShop(t, { env })
    // The tests of the other stores use the same database.
    await app.db.query("DELETE FROM order_items WHERE product_id IN (SELECT id FROM products WHERE category = 'new')")
    const get = async (url: string, address = '10.0.0.1') => await client(app, address).send('GET', url)

    t.test('a product has its rank among the best sellers, and its neighbours', async t => {
      const top: Array<{ productId: number, sold: number, name: string }> = (await get('/leaderboard?limit=100')).json()
      const ranked = top.map((each, i) => ({ ...each, rank: i + 1 }))
      for (const at of [0, 1, 50]) {
        const response = (await get(`/leaderboard/${top[at]?.productId}?neighbours=3`)).json()
        t.same(response, { ...ranked[at], around: ranked.slice(Math.max(0, at - 3), at + 4) })
      }
      t.equal((await get('/leaderboard/2147483647')).statusCode, 404)
      t.equal((await get('/leaderboard/1?neighbours=51')).statusCode, 400)
    })

    t.test('a sale raises the rank of a product, also of one that was not sold before', async t => {
      const [product] = await app.db.query<{ id: number }>("INSERT INTO products (name, description, category, price_cents, stock) VALUES ('New', '', 'new', 1, 100000) RETURNING id")
      const id = product?.id ?? 0
      t.same(await app.leaderboard.around(id, 0), [])
      await app.db.query('UPDATE products SET stock = 100000 WHERE id = $1', [id])
      for (const quantity of [1, 50_000]) {
        await app.checkOut(1, { id: randomUUID(), quantities: { [id]: quantity } })
      }
      t.same(await app.leaderboard.around(id, 0), [{ productId: id, sold: 50_001, rank: 1 }])
    })

    t.test('each visitor is counted once, by day and for seven days', async t => {
      const count = async () => (await get('/statistics/visitors', '10.0.0.1')).json()
      await until('the first is counted', async () => (await count()).today === 1)
      for (let i = 0; i < 2 * VISITORS; i++) await get('/', `10.2.0.${i % VISITORS}`)
      const isNear = (seen: number) => Math.abs(seen - VISITORS - 1) <= TOLERANCE
      await until('all visitors are counted', async () => isNear((await count()).today))
      const { today, lastSevenDays } = await count()
      t.ok(isNear(today), `${today} visitors`)
      t.equal(lastSevenDays, today)
      for (let i = 0; i < 50; i++) await Promise.all([get('/nothing', `10.3.0.${i}`), get('/health', `10.3.0.${i}`)])
      t.equal((await count()).today, today, 'neither a 404 nor a probe is a visit')
    })

    t.test('the OpenAPI document has the routes', async t => {
      const { paths } = (await get('/docs/json')).json()
      t.same(['/leaderboard/{productId}', '/statistics/visitors', '/sale/{productId}', '/sale/{productId}/buy'].filter(path => !(path in paths)), [])
      t.match(paths['/orders'].post.parameters, [{ name: 'idempotency-key', in: 'header', required: false }])
    })

    if (name !== 'Redis') return
    t.test('seven days include the days before today, and each day has a TTL', async t => {
      const direct = server.client()
      const day = (ago: number) => `demo:{visitors}:${new Date(Date.now() - ago * 86_400_000).toISOString().slice(0, 10)}`
      await direct.del(day(0))
      await direct.pfadd(day(1), 'a', 'b')
      await direct.pfadd(day(6), 'b', 'c')
      await direct.pfadd(day(7), 'd')
      app.visitors.record('a')
      await until('today is counted', async () => await app.visitors.count(1) === 1)
      t.equal(await app.visitors.count(7), 3)
      t.ok(await direct.pttl(day(0)) > 7 * 86_400_000)
    })

    t.test('while Redis is down ranks are read from the database, and the number of visitors is unknown', async t => {
      const before = await app.leaderboard.around(1, 2)
      await server.kill()
      t.same(await app.leaderboard.around(1, 2), before)
      t.same((await get('/statistics/visitors')).json(), { today: null, lastSevenDays: null })
      await server.start()
      await until('visitors are counted again', async () => (await get('/statistics/visitors')).json().today > 0)
      t.match((await get('/statistics/visitors')).json(), { today: Number, lastSevenDays: Number })
    })
  })
}

for (const [name, environment] of Object.entries(sales)) {
  t.test(`a sale on ${name}`, async t => {
    const clock = createTestClock()
    const apps = await startShop(t, {
      env: environment.env,
      instances: environment.instances,
      clock,
      // The password of a buyer takes 30 ms of CPU.
      routes: app => { app.post<{ Params: { user: string } }>('/enter/:user', async request => { await request.login(request.params.user) }) }
    })
    const [app] = apps
    const admin = client(app, '10.0.0.1')
    await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })
    const open = async (productId: number, stock: number, pieces: number) => {
      await app.db.query('UPDATE products SET stock = $2 WHERE id = $1', [productId, stock])
      return await admin.send('POST', `/sale/${productId}`, { pieces })
    }
    const lastOrder = (await app.db.query<{ id: number }>('SELECT max(id) AS id FROM orders'))[0]?.id
    const ordersOf = async (productId: number) => await app.db.query<{ userId: number }>(
      'SELECT user_id AS "userId" FROM orders JOIN order_items ON order_id = id WHERE product_id = $1 AND checkout_id IS NOT NULL AND id > $2', [productId, lastOrder])
    const stockOf = async (productId: number) => (await app.db.query<{ stock: number }>('SELECT stock FROM products WHERE id = $1', [productId]))[0]?.stock
    const leftOf = async (productId: number) => (await admin.send('GET', `/sale/${productId}`)).json().left
    const enter = async (user: number) => {
      const visitor = client(apps[user % apps.length] ?? app, `10.1.${user >> 8}.${user & 255}`)
      await visitor.send('POST', `/enter/${user}`)
      return visitor
    }

    t.test('ten concurrent buyers per piece, who try again, get as many orders as there are pieces', async t => {
      t.equal((await open(301, 500, PIECES)).statusCode, 200)
      const buyers = await Promise.all(Array.from({ length: 10 * PIECES }, (_, i) => enter(i + 1)))
      const buy = async () => await Promise.all(buyers.map(async buyer => await buyer.send('POST', '/sale/301/buy')))
      t.same((await buy()).map(({ statusCode, body }) => `${statusCode} ${body}`).filter(answer => !/^200|^409/.test(answer)), [])
      // A response may be lost on a busy machine: the buyer then gets the piece with a retry.
      await until('all pieces are sold', async () => (await ordersOf(301)).length >= PIECES || (await buy()).length === 0)
      const bought = (await buy()).filter(({ statusCode }) => statusCode === 200)
      t.equal(new Set(bought.map(response => response.json().orderId)).size, PIECES)
      const orders = await ordersOf(301)
      t.same([orders.length, new Set(orders.map(({ userId }) => userId)).size], [PIECES, PIECES], 'orders in the database, one per buyer')
      t.same([await stockOf(301), await leftOf(301)], [500 - PIECES, 0])
    })

    t.test('a piece whose order failed goes to the next buyer', async t => {
      t.equal((await open(302, 5, 1)).statusCode, 200)
      await app.db.query('UPDATE products SET stock = 0 WHERE id = 302')
      const [ann, bob] = [await enter(1), await enter(2)]
      t.equal((await ann.send('POST', '/sale/302/buy')).statusCode, 409)
      t.equal(await leftOf(302), 1)
      await app.db.query('UPDATE products SET stock = 1 WHERE id = 302')
      t.equal((await bob.send('POST', '/sale/302/buy')).statusCode, 200)
      t.match((await ann.send('POST', '/sale/302/buy')).json(), { statusCode: 409, message: 'sold out' })
      t.same([await stockOf(302), await leftOf(302), (await ordersOf(302)).length], [0, 0, 1])
    })

    t.test('a repeated purchase returns the same order, even if the reply of the database was lost', async t => {
      await open(303, 5, 5)
      const ann = await enter(1)
      const { transaction } = app.db
      for (const each of apps) {
        each.db.transaction = async work => {
          await transaction(work)
          throw new Error('the answer is lost')
        }
      }
      const first = await ann.send('POST', '/sale/303/buy')
      for (const each of apps) each.db.transaction = transaction
      t.equal(first.statusCode, 200)
      t.same((await ann.send('POST', '/sale/303/buy')).json(), first.json())
      t.same([await stockOf(303), await leftOf(303)], [4, 4])
    })

    t.test('a buyer whose piece was taken by a request that died orders it 2 s later', async t => {
      await open(307, 5, 1)
      const ann = await enter(4)
      const taken = await app.sale.take(307, 4)
      t.match((await ann.send('POST', '/sale/307/buy')).json(), { statusCode: 409, message: 'your order is being placed' })
      await clock.advance(1999)
      t.equal((await ann.send('POST', '/sale/307/buy')).statusCode, 409)
      await clock.advance(1)
      const response: LightMyRequestResponse = await ann.send('POST', '/sale/307/buy')
      t.equal(response.statusCode, 200)
      // The first request is still running, and fails only now.
      if (taken.kind === 'taken') await app.sale.release(307, 4, taken.piece)
      t.same([taken.kind, await leftOf(307), await stockOf(307)], ['taken', 0, 4])
      t.same((await ann.send('POST', '/sale/307/buy')).json(), response.json())
    })

    t.test('a new sale has its own pieces, and pieces of the previous sale are not returned to it', async t => {
      await open(304, 5, 1)
      const taken = await app.sale.take(304, 1)
      await open(304, 5, 2)
      if (taken.kind === 'taken') await app.sale.release(304, 1, taken.piece)
      t.same([taken.kind, await leftOf(304)], ['taken', 2])
    })

    t.test('only an admin opens a sale, of no more than the stock', async t => {
      const user = await enter(3)
      t.equal((await user.send('POST', '/sale/305', { pieces: 1 })).statusCode, 403)
      t.equal((await open(305, 5, 6)).statusCode, 409)
      t.equal((await admin.send('POST', '/sale/999999', { pieces: 1 })).statusCode, 404)
      t.equal((await user.send('POST', '/sale/305/buy')).statusCode, 404)
      t.equal((await user.send('GET', '/sale/305')).statusCode, 404)
      t.equal((await client(app, '10.9.9.9').send('POST', '/sale/305/buy')).statusCode, 401)
    })

    t.test('an order that is sent again with its key gets the same response, although the cart is empty', async t => {
      const visitor = await enter(77)
      await visitor.send('POST', '/cart/items', { productId: 306, quantity: 1 })
      const order = () => app.inject({ method: 'POST', url: '/orders', cookies: visitor.cookies, headers: { 'idempotency-key': 'order-1' } })
      const { value: answers } = await advanceWhile(clock, Promise.all(Array.from({ length: 20 }, order)))
      t.equal(new Set(answers.map(({ statusCode, body }) => `${statusCode} ${body}`)).size, 1)
      t.equal(answers[0]?.statusCode, 200)
      const again = await order()
      t.same([again.headers['idempotency-replayed'], again.body], ['true', answers[0]?.body])
      t.equal((await visitor.send('POST', '/orders')).statusCode, 409, 'without it the cart is empty')

      // The previous sales have mails as well.
      const { orderId } = answers[0]?.json()
      const mail = async () => (await visitor.send('GET', '/me/mails')).json().find((one: { orderId: number }) => one.orderId === orderId)
      await advanceUntil(clock, 'the mail is written', async () => await mail() !== undefined, { step: 100 })
      t.match(await mail(), { subject: /^Your order \d+: \d+\.\d\d$/, sentAt: String })
      t.equal((await client(app, '10.9.9.9').send('GET', '/me/mails')).statusCode, 401)
    })
  })
}

t.test('each key of a sale in Redis has a TTL', async t => {
  const direct = (await sharedRedis()).client()
  const keys = await direct.keys('demo:sale:*')
  t.ok(keys.some(key => key.includes('buyers')))
  const ttls = await Promise.all(keys.map(async key => await direct.pttl(key)))
  t.same(keys.filter((_, i) => (ttls[i] ?? -1) <= 0), [])
})

t.test('routes and tables of the shop', async t => {
  const [app] = await startShop(t)
  const admin = client(app, '10.0.0.1')
  await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })

  t.test('values that the database does not accept are refused with 400', async t => {
    const bad: Array<[Method, string, object?]> = [
      ['GET', '/products?category=a%00b'],
      ['GET', '/products/search?q=%00'],
      ['POST', '/login', { email: `user1@example.com${NUL}`, password: 'x' }],
      ['PUT', '/products/1', { name: `Tea${NUL}pot` }],
      ['PATCH', '/me', { name: NUL }],
      ['GET', '/products/1%00'],
      ['GET', `/products/${TOO_LARGE}`],
      ['PUT', `/products/${TOO_LARGE}`, { stock: 1 }],
      ['POST', '/cart/items', { productId: TOO_LARGE, quantity: 1 }],
      ['DELETE', `/cart/items/${TOO_LARGE}`],
      ['DELETE', '/cart/items/0'],
      ['GET', '/products/Infinity'],
      ['GET', '/products/-1e999'],
      ['GET', '/products?limit=Infinity'],
      ['GET', '/products?offset=1e999'],
      ['GET', '/products?minPrice=Infinity'],
      ['GET', '/leaderboard?limit=Infinity'],
      ['PUT', '/products/1', { stock: 'Infinity' }],
      ['POST', '/cart/items', { productId: 1, quantity: 'Infinity' }]
    ]
    const responses = await Promise.all(bad.map(async ([method, url, payload]) => ({ method, url, answer: (await admin.send(method, url, payload)).json() })))
    t.same(responses.filter(({ answer: { statusCode, error } }) => statusCode !== 400 || error !== 'Bad Request'), [])
    const largest = TOO_LARGE - 1
    t.equal((await admin.send('GET', `/products/${largest}`)).statusCode, 404)
    t.equal((await admin.send('POST', '/cart/items', { productId: largest, quantity: 1 })).statusCode, 404)
    t.equal((await admin.send('DELETE', `/cart/items/${largest}`)).statusCode, 200)
  })

  t.test('sums beyond 32 bits are returned as numbers', async t => {
    await admin.send('PUT', '/products/1', { priceCents: 10 ** 8 })
    await admin.send('POST', '/cart/items', { productId: 1, quantity: 99 })
    t.equal((await admin.send('GET', '/cart')).json().totalCents, 99 * 10 ** 8)
    await app.db.query('UPDATE products SET stock = 99 WHERE id = 1')
    t.equal((await admin.send('POST', '/orders')).json().totalCents, 99 * 10 ** 8)

    const [{ category, month }] = await app.db.query<{ category: string, month: string }>(
      "SELECT category, to_char(now(), 'YYYY-MM') AS month FROM products WHERE id = 1") as [{ category: string, month: string }]
    const now = async () => (await admin.send('GET', '/reports/sales')).json()
      .find((row: { category: string, month: string }) => row.category === category && row.month === month)
    t.ok((await now()).revenueCents >= 99 * 10 ** 8)

    const largest = 2 ** 31 - 1
    await app.db.query(`INSERT INTO order_items SELECT id, 2, ${largest}, 1 FROM orders WHERE id NOT IN (SELECT order_id FROM order_items WHERE product_id = 2) LIMIT 2`)
    await app.cache.invalidateTags(['orders'])
    t.equal((await admin.send('GET', '/reports/sales')).statusCode, 200)
    const [best] = (await admin.send('GET', '/leaderboard')).json()
    t.ok(best.productId === 2 && best.sold >= 2 * largest)
  })

  t.test('a page of products is read from an index in each sort order', async t => {
    const { query } = app.db
    for (const sort of ['name', 'price', '-price', 'newest']) {
      const plans: string[] = []
      app.db.query = async (sql, params) => {
        if (sql.includes('ORDER BY')) plans.push((await query(`EXPLAIN ${sql}`, params)).map(row => row['QUERY PLAN']).join('\n'))
        return await query(sql, params)
      }
      t.equal((await admin.send('GET', `/products?sort=${sort}&limit=20`)).statusCode, 200)
      app.db.query = query
      t.match(plans, [/Index Scan/], sort)
      // Sorting the few products of one price is not a sort of the whole table.
      t.notMatch(plans, [/(?<!Incremental) Sort {2}\(cost|Seq Scan/], sort)
    }
  })

  t.test('no malformed request gets a status of 500 or above', async t => {
    const statuses = await sendOddRequests(app, { numRuns: 200, seed: 16 })
    t.same([200, 400, 401, 404].filter(status => !statuses.has(status)), [], 'the requests reach the routes')
  })

  t.test('tables of an earlier version are migrated, and a second migration changes nothing', async t => {
    await app.db.query('ALTER TABLE orders DROP COLUMN checkout_id')
    const indexes = async () => (await app.db.query<{ name: string }>("SELECT indexname AS name FROM pg_indexes WHERE tablename = 'orders' ORDER BY 1")).map(({ name }) => name)
    for (let time = 0; time < 2; time++) {
      for (const statement of [...schemaSql, ...triggerSql]) await app.db.query(statement)
      t.same(await indexes(), ['orders_checkout', 'orders_pkey', 'orders_user'])
      const triggers = await app.db.query('SELECT tgname FROM pg_trigger WHERE NOT tgisinternal')
      t.equal(triggers.length, 16, 'four at each of four tables')
    }
  })
})
