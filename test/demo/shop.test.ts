import t, { type Test } from 'tap'
import { schemaSql, triggerSql } from '../../demo/schema.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client, type Method } from '../helpers/app/client.js'
import { sendOddRequests } from '../helpers/demo/odd-requests.js'
import { startShop } from '../helpers/demo/start-shop.js'

const NUL = '\u0000'
const TOO_LARGE = 2 ** 31

const [app] = await startShop(t as Test)
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
    // A sort of the few that have the same price is none of the whole table.
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
