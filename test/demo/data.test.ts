import t from 'tap'
import { buildApp } from '../../app.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/app/client.js'
import { startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

const redis = await startRedis()
const { logger, lines } = collectLog()
const app = await buildApp(shopConfig({ RATE_LIMIT_MAX: '1000000', REDIS_URL: redis.url }), { loggerInstance: logger })
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
  const ask = async () => {
    for (const { statusCode, body } of await Promise.all(Array.from({ length: 20 }, () => app.inject('/reports/sales')))) {
      if (statusCode !== 200) throw new Error(`${statusCode} ${body}`)
    }
  }
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

t.test('views', async t => {
  const report = async () => (await app.inject('/reports/views?limit=100')).json()
  const viewsOf = async (id: number) => (await report()).items.find(({ productId }: { productId: number }) => productId === id)?.views ?? 0

  t.test('each answer with a product is a view, out of the cache as well; no other answer is', async t => {
    const answers = []
    for (let i = 0; i < 30; i++) answers.push(await app.inject('/products/70'))
    t.ok(answers.some(({ headers }) => headers['x-cache'] === 'HIT'))
    await app.inject({ url: '/products/70', method: 'HEAD' })
    await app.inject('/products/999999')
    await until('all are counted', async () => await viewsOf(70) === 30)
    await until('nothing waits any more', async () => (await report()).backlog === 0)
    t.match(await report(), { backlog: 0, deadLetters: 0 })
    t.equal(await viewsOf(999999), 0)
  })

  t.test('views that are given to the database twice count once', async t => {
    const { query } = app.db
    const given: number[] = []
    app.db.query = async <T extends Record<string, unknown>>(sql: string, params?: unknown[]) => {
      const rows = await query<T>(sql, params)
      const ids = params?.[0]
      if (!sql.includes('counted_views') || !Array.isArray(ids)) return rows
      given.push(ids.length)
      // As where the process dies between the commit and the end of the batch.
      if (given.length === 1) throw new Error('the answer is lost')
      return rows
    }
    for (let i = 0; i < 10; i++) await app.inject('/products/71')
    await until('they are given again', async () => given.reduce((sum, count) => sum + count, 0) > 10 && (await report()).backlog === 0)
    app.db.query = query
    t.equal(await viewsOf(71), 10)
  })

  t.test('what cannot be counted is said once, and the page is answered', async t => {
    const before = lines.length
    const told = (part: string) => lines.slice(before).filter(({ msg }) => String(msg).includes(part)).length
    redis.pause()
    for (let i = 0; i < 10; i++) t.equal((await app.inject('/products/72')).statusCode, 200)
    await until('it is said', () => told('views: not counted') === 1)
    t.match(await report(), { backlog: null, items: Array })
    redis.resume()
    await until('it is counted again', async () => {
      await app.inject('/products/72')
      return told('views: counted again') === 1
    })
    t.equal(told('views: not counted'), 1)
  })
})
