import t from 'tap'
import { buildApp } from '../../app.js'
import { readConfig } from '../../demo/config.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/client.js'
import { startRedis, until } from '../helpers/index.js'

const redis = await startRedis()
const app = await buildApp(readConfig({ RATE_LIMIT_MAX: '1000000', REDIS_URL: redis.url }))
t.teardown(() => app.close())
const admin = client(app, '10.0.0.1')
await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })

/** The statements with such a text that the routes run meanwhile. */
async function statements (part: string, work: () => Promise<void>): Promise<number> {
  const { query } = app.db
  let count = 0
  app.db.query = async (sql, params) => {
    if (sql.includes(part)) count++
    return await query(sql, params)
  }
  await work().finally(() => { app.db.query = query })
  return count
}

/** Does something, and waits until what the database tells of it is heard. */
async function andEcho (tag: string, work: () => Promise<unknown>): Promise<void> {
  let heard = 0
  const stop = app.cache.on('invalidate', ({ tags }) => { if (tags?.includes(tag)) heard++ })
  await work()
  // Once by the route, once by the database.
  await until(`${tag} is cleared twice`, () => heard >= 2)
  stop()
}

t.test('the report is made once for all that ask at once, and again once an order was made', async t => {
  const ask = async () => { await Promise.all(Array.from({ length: 20 }, () => app.inject('/reports/sales'))) }
  // What the start cleared may be made once more.
  await until('it is kept', async () => await statements('date_trunc', ask) === 0)
  await app.cache.delete('report:sales')
  t.equal(await statements('date_trunc', ask), 1)
  t.equal(await statements('date_trunc', ask), 0)
  await app.db.query('INSERT INTO orders (user_id) VALUES (1)')
  await until('the report is made anew', async () => await statements('date_trunc', ask) === 1)
})

t.test('a product that is changed is written through: its page is new, and the database is not asked for it', async t => {
  t.equal((await app.inject('/products/1')).statusCode, 200)
  await andEcho('page:product:1', async () => t.equal((await admin.send('PUT', '/products/1', { priceCents: 1234 })).json().priceCents, 1234))
  const asked = await statements('FROM products WHERE id', async () => {
    const page = await app.inject('/products/1')
    t.match([page.headers['x-cache'], page.json()], ['MISS', { id: 1, priceCents: 1234 }])
  })
  t.equal(asked, 0)
  await app.db.query('UPDATE products SET price_cents = 4321 WHERE id = 1')
  await until('what others write is read', async () => (await app.inject('/products/1')).json().priceCents === 4321)
  t.equal((await admin.send('PUT', '/products/999999', { stock: 1 })).statusCode, 404)
})

t.test('a change of which nobody knows whether it was committed is read from the database', async t => {
  await until('the product is kept', async () => await statements('FROM products WHERE id', async () => { await app.inject('/products/2') }) === 0)
  const { transaction } = app.db
  app.db.transaction = async work => {
    await transaction(work)
    throw new Error('the answer is lost')
  }
  t.equal((await admin.send('PUT', '/products/2', { priceCents: 1234 })).statusCode, 500)
  app.db.transaction = transaction
  await until('the page shows it', async () => (await app.inject('/products/2')).json().priceCents === 1234)
})

t.test('a profile is written through as well', async t => {
  const { id } = (await admin.send('GET', '/me')).json()
  await andEcho(`page:user:${id}`, async () => t.same((await admin.send('PATCH', '/me', { name: 'Boss' })).json(), { name: 'Boss' }))
  const asked = await statements('FROM users', async () => {
    t.match((await admin.send('GET', '/me')).json(), { id, email: 'admin@example.com', name: 'Boss', orders: Number })
  })
  t.equal(asked, 0)
})
