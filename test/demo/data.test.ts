import type { FastifyInstance } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.js'
import { openListener } from '../../demo/listener.js'
import type { OrderMail } from '../../demo/mails.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/app/client.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { startShop } from '../helpers/demo/start-shop.js'
import { startProxy, startRedis, until } from '../helpers/index.js'
import { freePort } from '../../tools/servers/free-port.js'
import { findPostgres, startPostgres } from '../helpers/servers/postgres.js'

const bin = findPostgres()
const skip = bin === undefined && 'there is no PostgreSQL on this machine'
const postgres = bin === undefined ? undefined : await startPostgres(bin)
const env = { RATE_LIMIT_MAX: '100000' }

const redis = await startRedis()
const { logger, lines } = collectLog()
const [app] = await startShop(t as Test, { env: { REDIS_URL: redis.url }, loggerInstance: logger })
const admin = client(app, '10.0.0.1')
await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })

/** Counts the log lines since then that contain this text. */
const linesSince = (before: number, part: string) => lines.slice(before).filter(({ msg }) => String(msg).includes(part)).length

/** Resolves when the page is served from the cache. */
async function warm (app: FastifyInstance, url: string): Promise<void> {
  await until(`${url} is a hit`, async () => (await app.inject(url)).headers['x-cache'] === 'HIT')
}

const page = async (app: FastifyInstance, url: string) => {
  const response = await app.inject(url)
  return [response.headers['x-cache'], response.json().stock]
}

/** Counts the statements with this text that the routes run during `work`. */
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

/** Resolves when the invalidation by the route and the one by the database's notification have both happened. */
async function andEcho (tag: string, work: () => Promise<unknown>): Promise<void> {
  let heard = 0
  const stop = app.cache.on('invalidate', ({ tags }) => { if (tags?.includes(tag)) heard++ })
  await work()
  await until(`${tag} is cleared twice`, () => heard >= 2)
  stop()
}

t.test('changes in the embedded database', async t => {
  const { query } = app.db

  t.test('a row changed in the database invalidates its page, and no other page', async t => {
    for (const url of ['/products/1', '/products/2', '/products']) await warm(app, url)
    await query('UPDATE products SET stock = 4711 WHERE id = 1')
    await until('the new stock is shown', async () => (await page(app, '/products/1'))[1] === 4711)
    t.equal((await page(app, '/products/2'))[0], 'HIT')
    t.equal((await app.inject('/products')).headers['x-cache'], 'MISS')
  })

  t.test('a change that is rolled back invalidates nothing', async t => {
    for (const url of ['/products/3', '/products/4']) await warm(app, url)
    await app.db.transaction(async inside => {
      await inside('UPDATE products SET stock = 1 WHERE id = 3')
      throw new Error('back')
    }).catch(() => {})
    await query('UPDATE products SET stock = 4712 WHERE id = 4')
    await until('a later change is shown', async () => (await page(app, '/products/4'))[1] === 4712)
    t.equal((await page(app, '/products/3'))[0], 'HIT')
  })

  t.test('an inserted row is found, and a deleted row is not', async t => {
    const [{ id }] = await query<{ id: number }>("INSERT INTO products (name, description, category, price_cents, stock) VALUES ('a', 'b', 'kitchen', 1, 1) RETURNING id") as [{ id: number }]
    const status = async () => (await app.inject(`/products/${id}`)).statusCode
    await until('the row is found', async () => await status() === 200)
    await warm(app, `/products/${id}`)
    await query('DELETE FROM products WHERE id = $1', [id])
    await until('the row is not found', async () => await status() === 404)
    t.equal(await status(), 404)
  })

  t.test('the profile shows a name and an order that were written to the database', async t => {
    const user = client(app, '10.0.0.1')
    await user.send('POST', '/login', { email: 'user3@example.com', password: DEMO_PASSWORD })
    const me = async () => (await user.send('GET', '/me'))
    await until('a hit', async () => (await me()).headers['x-cache'] === 'HIT')
    const { id, orders } = (await me()).json()
    await query("UPDATE users SET name = 'Renamed' WHERE id = $1", [id])
    await until('the new name is shown', async () => (await me()).json().name === 'Renamed')
    await until('a hit', async () => (await me()).headers['x-cache'] === 'HIT')
    await query('INSERT INTO orders (user_id) VALUES ($1)', [id])
    await until('the order is counted', async () => (await me()).json().orders === orders + 1)
    t.match((await me()).json(), { name: 'Renamed', orders: orders + 1 })
  })

  t.test('a notification of another form invalidates all pages', async t => {
    await warm(app, '/products/5')
    let cleared: readonly string[] = []
    const stop = app.cache.on('invalidate', ({ tags }) => { if (tags?.includes('product:all')) cleared = tags })
    t.teardown(stop)
    await query("SELECT pg_notify('changes', 'garbage')")
    await until('a miss', async () => (await page(app, '/products/5'))[0] === 'MISS')
    t.same(cleared, ['products', 'product:all', 'orders', 'users', 'user:all'])
  })

  t.test('a change while Redis hangs is invalidated once Redis replies', async t => {
    await warm(app, '/products/6')
    const before = lines.length
    redis.pause()
    t.teardown(() => redis.resume())
    await query('UPDATE products SET stock = 4713 WHERE id = 6')
    await until('the log reports the failure', () => linesSince(before, 'invalidations failed') === 1)
    redis.resume()
    await until('the log reports the recovery', () => linesSince(before, 'all invalidations are written') === 1)
    t.equal((await page(app, '/products/6'))[1], 4713)
  })
})

t.test('concurrent requests share one query of the report, which an order invalidates', async t => {
  const ask = async () => {
    for (const { statusCode, body } of await Promise.all(Array.from({ length: 20 }, () => app.inject('/reports/sales')))) {
      if (statusCode !== 200) throw new Error(`${statusCode} ${body}`)
    }
  }
  // Entries that the start invalidated may be computed once more.
  await until('the report is cached', async () => await statements('date_trunc', ask) === 0)
  await app.cache.delete('report:sales')
  t.equal(await statements('date_trunc', ask), 1)
  t.equal(await statements('date_trunc', ask), 0)
  await app.db.query('INSERT INTO orders (user_id) VALUES (1)')
  let queries = 0
  await until('the report is queried again', async () => (queries += await statements('date_trunc', ask)) > 0)
  t.equal(queries, 1)
})

t.test('a changed product is written through: its page is new, and the database is not queried', async t => {
  t.equal((await app.inject('/products/1')).statusCode, 200)
  await andEcho('page:product:1', async () => t.equal((await admin.send('PUT', '/products/1', { priceCents: 1234 })).json().priceCents, 1234))
  const asked = await statements('FROM products WHERE id', async () => {
    const page = await app.inject('/products/1')
    t.match([page.headers['x-cache'], page.json()], ['MISS', { id: 1, priceCents: 1234 }])
  })
  t.equal(asked, 0)
  await app.db.query('UPDATE products SET price_cents = 4321 WHERE id = 1')
  await until('a change in the database is read', async () => (await app.inject('/products/1')).json().priceCents === 4321)
  t.equal((await admin.send('PUT', '/products/999999', { stock: 1 })).statusCode, 404)
})

t.test('a change whose commit was not confirmed is read from the database', async t => {
  await until('the product is cached', async () => await statements('FROM products WHERE id', async () => { await app.inject('/products/2') }) === 0)
  const { transaction } = app.db
  app.db.transaction = async work => {
    await transaction(work)
    throw new Error('the answer is lost')
  }
  t.equal((await admin.send('PUT', '/products/2', { priceCents: 1234 })).statusCode, 500)
  app.db.transaction = transaction
  await until('the page shows the change', async () => (await app.inject('/products/2')).json().priceCents === 1234)
})

t.test('a changed profile is written through', async t => {
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

  t.test('each GET of a product counts as a view, also from the cache; HEAD and 404 do not', async t => {
    const answers = []
    for (let i = 0; i < 30; i++) answers.push(await app.inject('/products/70'))
    t.ok(answers.some(({ headers }) => headers['x-cache'] === 'HIT'))
    await app.inject({ url: '/products/70', method: 'HEAD' })
    await app.inject('/products/999999')
    await until('all are counted', async () => await viewsOf(70) === 30)
    await until('the backlog is empty', async () => (await report()).backlog === 0)
    t.match(await report(), { backlog: 0, deadLetters: 0 })
    t.equal(await viewsOf(999999), 0)
  })

  t.test('views that are written to the database twice count once', async t => {
    const { query } = app.db
    const given: number[] = []
    app.db.query = async <T extends Record<string, unknown>>(sql: string, params?: unknown[]) => {
      const rows = await query<T>(sql, params)
      const ids = params?.[0]
      if (!sql.includes('counted_views') || !Array.isArray(ids)) return rows
      given.push(ids.length)
      // As if the process had died between the commit and the end of the batch.
      if (given.length === 1) throw new Error('the answer is lost')
      return rows
    }
    for (let i = 0; i < 10; i++) await app.inject('/products/71')
    await until('they are written again', async () => given.reduce((sum, count) => sum + count, 0) > 10 && (await report()).backlog === 0)
    app.db.query = query
    t.equal(await viewsOf(71), 10)
  })

  t.test('while views cannot be counted, the log reports it once, and pages are served', async t => {
    const before = lines.length
    redis.pause()
    for (let i = 0; i < 10; i++) t.equal((await app.inject('/products/72')).statusCode, 200)
    await until('the log says so', () => linesSince(before, 'views: not counted') === 1)
    t.match(await report(), { backlog: null, items: Array })
    redis.resume()
    await until('views are counted again', async () => {
      await app.inject('/products/72')
      return linesSince(before, 'views: counting again') === 1
    })
    t.equal(linesSince(before, 'views: not counted'), 1)
  })
})

t.test('mails', async t => {
  const [first, second] = await app.db.query<{ id: number, userId: number }>('SELECT id, user_id AS "userId" FROM orders WHERE id NOT IN (SELECT order_id FROM mails) ORDER BY id LIMIT 2')
  const letterOf = ({ id = 0, userId = 0 } = {}): OrderMail => ({ userId, orderId: id, totalCents: 123456 })

  t.test('a mail that is delivered twice is sent once', async t => {
    const { userId, orderId } = letterOf(first)
    await app.mails.queue(letterOf(first))
    await app.events.stream<OrderMail>('mails').append(letterOf(first), { key: String(userId) })
    await until('both are delivered', async () => (await app.events.stats()).every(({ lag, pending }) => lag === 0 && pending === 0))
    const mails = (await app.mails.of(userId, 10)).filter(mail => mail.orderId === orderId)
    t.match(mails, [{ orderId, subject: `Your order ${orderId}: 1234.56`, sentAt: String }])
    t.equal(mails.length, 1)
  })

  t.test('a mail that cannot be queued fails no order', async t => {
    const before = lines.length
    redis.pause()
    t.teardown(() => redis.resume())
    await t.resolves(app.mails.queue(letterOf(second)))
    t.equal(linesSince(before, 'mails: not queued'), 1)
  })
})

t.test('changes in a PostgreSQL server', { skip }, async (t: Test) => {
  if (postgres === undefined) return
  const connectionString = await postgres.url('shop')
  const [first, second] = [await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString })), await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString }))]
  t.teardown(() => Promise.all([first.close(), second.close()]))

  t.test('a row that psql changes is invalidated at each instance', async t => {
    for (const app of [first, second]) await warm(app, '/products/1')
    await postgres.psql('shop', 'UPDATE products SET stock = 4711 WHERE id = 1')
    for (const app of [first, second]) await until('the new stock is shown', async () => (await page(app, '/products/1'))[1] === 4711)
    t.same(await Promise.all([first, second].map(async app => (await page(app, '/products/1'))[1])), [4711, 4711])
  })

  t.test('a change of 10,000 rows is one small notification, and invalidates the page of each row', async t => {
    const listener = new pg.Client({ connectionString })
    const payloads: string[] = []
    listener.on('notification', ({ payload = '' }) => payloads.push(payload))
    await listener.connect()
    t.teardown(() => listener.end())
    await listener.query('LISTEN changes')
    for (const url of ['/products/10', '/products/9000']) await warm(first, url)
    await postgres.psql('shop', 'UPDATE products SET stock = 4712')
    for (const url of ['/products/10', '/products/9000']) await until('the new stock is shown', async () => (await page(first, url))[1] === 4712)
    await postgres.psql('shop', 'UPDATE products SET stock = 1 WHERE id <= 100; UPDATE products SET stock = 2 WHERE id < 1')
    await until('both notifications are received', () => payloads.length >= 2)
    t.same(JSON.parse(payloads[0] ?? ''), { lists: 'products', rows: ['product:all'], writer: null })
    t.equal(JSON.parse(payloads[1] ?? '').rows.length, 100, 'up to 100 rows are named')
    await postgres.psql('shop', "NOTIFY changes, 'last'")
    await until('the last notification is received', () => payloads.at(-1) === 'last')
    t.same([payloads.length, payloads.every(payload => payload.length < 8000)], [3, true], 'a statement that changes no row sends nothing')
  })

  t.test('an instance starts while a transaction holds locks on the rows', async t => {
    const other = new pg.Client({ connectionString })
    await other.connect()
    await other.query('BEGIN')
    await other.query('UPDATE products SET stock = stock; UPDATE orders SET created_at = created_at')
    // Waiting for the locks would take forever.
    const third = await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString }), { pluginTimeout: 30_000 })
    t.equal((await third.inject('/products/1')).statusCode, 200)
    await third.close()
    await other.query('ROLLBACK')
    await other.end()
  })

  t.test('a change that was missed while the connection was lost is invalidated on reconnection', async t => {
    const proxy = await startProxy(postgres.port)
    const { logger, lines } = collectLog()
    const app = await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString.replace(String(postgres.port), String(proxy.port)) }), { loggerInstance: logger })
    t.teardown(() => app.close())
    const linesWith = (part: string) => lines.filter(({ msg }) => String(msg).includes(part)).length
    await warm(app, '/products/20')

    proxy.target(await freePort())
    const ended = await postgres.psql('shop', "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'listens to changes'")
    t.equal(ended, '3', 'of this instance and the two above')
    await until('the log reports the loss', () => linesWith('not listening') === 1)
    await postgres.psql('shop', 'UPDATE products SET stock = 4713 WHERE id = 20')
    for (const other of [first, second]) await until('the others listen again', async () => (await page(other, '/products/20'))[1] === 4713)
    t.equal((await page(app, '/products/20'))[0], 'HIT', 'it was missed')

    proxy.target(postgres.port)
    await until('the new stock is shown', async () => (await page(app, '/products/20'))[1] === 4713)
    t.same([linesWith('not listening'), linesWith('listening again')], [1, 1], 'one line per change of state')
    await warm(app, '/products/20')
    await postgres.psql('shop', 'UPDATE products SET stock = 4714 WHERE id = 20')
    await until('a later change is shown', async () => (await page(app, '/products/20'))[1] === 4714)
  })

  t.test('a connection that does not reply is replaced', async t => {
    const proxy = await startProxy(postgres.port)
    const { logger, lines } = collectLog()
    let starts = 0
    const close = await openListener({
      connectionString: `postgres://shop@127.0.0.1:${proxy.port}/shop`,
      channel: 'changes',
      onMessage: () => {},
      onStart: () => { starts++ },
      log: logger,
      heartbeat: 50,
      timeout: 200
    })
    t.teardown(close)
    proxy.blackhole(true)
    await until('the log reports the loss', () => lines.some(({ msg }) => String(msg).includes('not listening')))
    proxy.blackhole(false)
    await until('a new connection listens', () => starts === 2)
    t.equal(lines.filter(({ msg }) => String(msg).includes('listening again')).length, 1)
  })
})
