import type { FastifyInstance } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { openListener } from '../../demo/listener.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/app/client.js'
import { freePort } from '../helpers/servers/free-port.js'
import { startProxy, startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { findPostgres, startPostgres } from '../helpers/servers/postgres.js'

const bin = findPostgres()
const skip = bin === undefined && 'there is no PostgreSQL on this machine'
const postgres = bin === undefined ? undefined : await startPostgres(bin)
const env = { RATE_LIMIT_MAX: '1000000' }

/** Waits until the page is answered out of the cache. */
async function warm (app: FastifyInstance, url: string): Promise<void> {
  await until(`${url} is a hit`, async () => (await app.inject(url)).headers['x-cache'] === 'HIT')
}

const page = async (app: FastifyInstance, url: string) => {
  const response = await app.inject(url)
  return [response.headers['x-cache'], response.json().stock]
}

t.test('the embedded database', async t => {
  const redis = await startRedis()
  const { logger, lines } = collectLog()
  const app = await buildApp(shopConfig({ ...env, REDIS_URL: redis.url }), { loggerInstance: logger })
  t.teardown(() => app.close())
  const { query } = app.db

  t.test('a row that is changed behind the routes clears its page, and no other one', async t => {
    for (const url of ['/products/1', '/products/2', '/products']) await warm(app, url)
    await query('UPDATE products SET stock = 4711 WHERE id = 1')
    await until('the new stock is shown', async () => (await page(app, '/products/1'))[1] === 4711)
    t.equal((await page(app, '/products/2'))[0], 'HIT')
    t.equal((await app.inject('/products')).headers['x-cache'], 'MISS')
  })

  t.test('what is rolled back is no change', async t => {
    for (const url of ['/products/3', '/products/4']) await warm(app, url)
    await app.db.transaction(async inside => {
      await inside('UPDATE products SET stock = 1 WHERE id = 3')
      throw new Error('back')
    }).catch(() => {})
    await query('UPDATE products SET stock = 4712 WHERE id = 4')
    await until('a later change is shown', async () => (await page(app, '/products/4'))[1] === 4712)
    t.equal((await page(app, '/products/3'))[0], 'HIT')
  })

  t.test('a row that is deleted, or inserted, is seen to be', async () => {
    const [{ id }] = await query<{ id: number }>("INSERT INTO products (name, description, category, price_cents, stock) VALUES ('a', 'b', 'kitchen', 1, 1) RETURNING id") as [{ id: number }]
    await until('it is found', async () => (await app.inject(`/products/${id}`)).statusCode === 200)
    await warm(app, `/products/${id}`)
    await query('DELETE FROM products WHERE id = $1', [id])
    await until('it is gone', async () => (await app.inject(`/products/${id}`)).statusCode === 404)
  })

  t.test('a name changed by hand is the name of the profile, and an order made by hand is counted', async () => {
    const user = client(app, '10.0.0.1')
    await user.send('POST', '/login', { email: 'user3@example.com', password: DEMO_PASSWORD })
    const me = async () => (await user.send('GET', '/me'))
    await until('a hit', async () => (await me()).headers['x-cache'] === 'HIT')
    const { id, orders } = (await me()).json()
    await query("UPDATE users SET name = 'Renamed' WHERE id = $1", [id])
    await until('renamed', async () => (await me()).json().name === 'Renamed')
    await until('a hit', async () => (await me()).headers['x-cache'] === 'HIT')
    await query('INSERT INTO orders (user_id) VALUES ($1)', [id])
    await until('counted', async () => (await me()).json().orders === orders + 1)
  })

  t.test('what cannot be read as a change is taken for a change of all', async () => {
    await warm(app, '/products/5')
    await query("SELECT pg_notify('changes', 'garbage')")
    await until('a miss', async () => (await page(app, '/products/5'))[0] === 'MISS')
  })

  t.test('a change is not lost while the cache is out of reach', async t => {
    await warm(app, '/products/6')
    const before = lines.length
    const told = (part: string) => lines.slice(before).filter(({ msg }) => String(msg).includes(part)).length
    redis.pause()
    await query('UPDATE products SET stock = 4713 WHERE id = 6')
    await until('it is known that it was not cleared', () => told('could not be written') === 1)
    redis.resume()
    await until('it is said that it was', () => told('all invalidations are written') === 1)
    t.equal((await page(app, '/products/6'))[1], 4713)
  })
})

t.test('a server', { skip }, async (t: Test) => {
  if (postgres === undefined) return
  const connectionString = await postgres.url('shop')
  const [first, second] = [await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString })), await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString }))]
  t.teardown(() => Promise.all([first.close(), second.close()]))

  t.test('a row that psql changes is cleared at every instance', async t => {
    for (const app of [first, second]) await warm(app, '/products/1')
    await postgres.psql('shop', 'UPDATE products SET stock = 4711 WHERE id = 1')
    for (const app of [first, second]) await until('the new stock is shown', async () => (await page(app, '/products/1'))[1] === 4711)
    t.pass('by both')
  })

  t.test('a change of 10,000 rows is told in one small payload, and clears the page of each', async t => {
    const ear = new pg.Client({ connectionString })
    const payloads: string[] = []
    ear.on('notification', ({ payload = '' }) => payloads.push(payload))
    await ear.connect()
    t.teardown(() => ear.end())
    await ear.query('LISTEN changes')
    for (const url of ['/products/10', '/products/9000']) await warm(first, url)
    await postgres.psql('shop', 'UPDATE products SET stock = 4712')
    for (const url of ['/products/10', '/products/9000']) await until('the new stock is shown', async () => (await page(first, url))[1] === 4712)
    await postgres.psql('shop', 'UPDATE products SET stock = 1 WHERE id <= 100; UPDATE products SET stock = 2 WHERE id < 1')
    await until('both are heard', () => payloads.length >= 2)
    t.same(JSON.parse(payloads[0] ?? ''), { lists: 'products', rows: ['product:all'], writer: null })
    t.equal(JSON.parse(payloads[1] ?? '').rows.length, 100, 'up to a hundred, each by itself')
    await postgres.psql('shop', "NOTIFY changes, 'last'")
    await until('the last one is heard', () => payloads.at(-1) === 'last')
    t.same([payloads.length, payloads.every(payload => payload.length < 8000)], [3, true], 'and nothing of what changed no row')
  })

  t.test('an instance that starts does not wait for what others do to the rows', async t => {
    const other = new pg.Client({ connectionString })
    await other.connect()
    await other.query('BEGIN')
    await other.query('UPDATE products SET stock = stock; UPDATE orders SET created_at = created_at')
    const third = await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString }), { pluginTimeout: 5000 })
    await third.close()
    await other.query('ROLLBACK')
    await other.end()
    t.pass('it has started')
  })

  t.test('a change that was missed while the connection was lost is cleared upon the next one', async t => {
    const proxy = await startProxy(postgres.port)
    const { logger, lines } = collectLog()
    const app = await buildApp(shopConfig({ ...env, DATABASE_URL: connectionString.replace(String(postgres.port), String(proxy.port)) }), { loggerInstance: logger })
    t.teardown(() => app.close())
    const told = (part: string) => lines.filter(({ msg }) => String(msg).includes(part)).length
    await warm(app, '/products/20')

    proxy.target(await freePort())
    const ended = await postgres.psql('shop', "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'listens to changes'")
    t.equal(ended, '3', 'of this instance and the two above')
    await until('it is known', () => told('does not listen') === 1)
    await postgres.psql('shop', 'UPDATE products SET stock = 4713 WHERE id = 20')
    for (const other of [first, second]) await until('the others listen again', async () => (await page(other, '/products/20'))[1] === 4713)
    t.equal((await page(app, '/products/20'))[0], 'HIT', 'it was missed')

    proxy.target(postgres.port)
    await until('the new stock is shown', async () => (await page(app, '/products/20'))[1] === 4713)
    t.same([told('does not listen'), told('listens again')], [1, 1], 'one line a change of state')
    await warm(app, '/products/20')
    await postgres.psql('shop', 'UPDATE products SET stock = 4714 WHERE id = 20')
    await until('what is changed now is heard', async () => (await page(app, '/products/20'))[1] === 4714)
  })

  t.test('a connection over which nothing comes any more is given up', async t => {
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
    await until('it is known', () => lines.some(({ msg }) => String(msg).includes('does not listen')))
    proxy.blackhole(false)
    await until('it listens again', () => starts === 2)
    t.pass('once it could')
  })
})
