import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { root } from '../helpers/docs/doc-blocks.js'
import { startRedis, until } from '../helpers/index.js'
import { findPostgres, startPostgres } from '../helpers/servers/postgres.js'

process.env['LOG_LEVEL'] = 'silent'

const { build } = await import('../../examples/guides/database-invalidation.js')
const schema = await readFile(join(root, 'examples/guides/database-invalidation.sql'), 'utf8')
const bin = findPostgres()
const isMissing = bin === undefined && 'PostgreSQL is not installed'
const postgres = bin === undefined ? undefined : await startPostgres(bin)
let databases = 0

/** Starts two instances on a Redis and a database of their own. */
async function start (t: Test, { poll = 60_000 } = {}) {
  if (postgres === undefined) throw new Error('no PostgreSQL')
  const name = `shop${++databases}`
  const databaseUrl = await postgres.url(name)
  const sql = async (text: string) => await postgres.psql(name, text)
  await sql(`CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL); INSERT INTO products SELECT i, 'product ' || i FROM generate_series(1, 200) AS i; ${schema}`)
  const server = await startRedis()
  process.env['REDIS_URL'] = server.url
  const apps = [await build({ databaseUrl, poll }), await build({ databaseUrl, poll })]
  t.teardown(() => Promise.all(apps.map(app => app.close())))
  const [one, two] = apps as [FastifyInstance, FastifyInstance]
  await until('both instances listen', async () => await listeners(sql) === 2)
  return { one, two, sql, server }
}

const listeners = async (sql: (text: string) => Promise<string>) => Number(await sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN cache_outbox'"))
const nameOf = async (app: FastifyInstance, id: number) => (await app.inject(`/products/${id}`)).json().name
const outcome = async (app: FastifyInstance, url: string) => (await app.inject(url)).headers['x-cache']

async function store (app: FastifyInstance, url: string) {
  await until(`${url} is stored`, async () => await outcome(app, url) === 'HIT')
}

t.test('a change by any program invalidates its pages on all instances, and no others', { skip: isMissing }, async t => {
  const { one, two, sql } = await start(t)
  for (const url of ['/products/1', '/products/2', '/products']) for (const app of [one, two]) await store(app, url)
  await sql("UPDATE products SET name = 'teapot' WHERE id = 1")
  await until('both instances have the change', async () => await nameOf(one, 1) === 'teapot' && await nameOf(two, 1) === 'teapot')
  await until('the list has it', async () => (await two.inject('/products')).json()[0].name === 'teapot')
  t.equal(await outcome(two, '/products/2'), 'HIT')
  await until('the change has left the table', async () => await sql('SELECT count(*) FROM cache_outbox') === '0')
})

t.test('a statement on many rows is one entry of the outbox, and a rolled back one is none', { skip: isMissing }, async t => {
  const { one, sql } = await start(t)
  for (const id of [1, 200]) await store(one, `/products/${id}`)
  await sql("BEGIN; UPDATE products SET name = 'never'; ROLLBACK")
  t.equal(await sql('SELECT count(*) FROM cache_outbox'), '0')
  t.equal(await outcome(one, '/products/200'), 'HIT')
  await sql("UPDATE products SET name = 'sale'")
  await until('the page has the change', async () => await nameOf(one, 200) === 'sale')
  t.equal(await sql('SELECT last_value FROM cache_outbox_id_seq'), '2', 'one id for each statement; a sequence is not rolled back')
})

t.test('a client that writes by a route reads its own write from any instance', { skip: isMissing }, async t => {
  const { one, two } = await start(t)
  await store(one, '/products/3')
  await one.inject({ method: 'PUT', url: '/products/3', payload: { name: 'cup' } })
  t.equal(await nameOf(one, 3), 'cup')
  await until('the other instance has the change', async () => await nameOf(two, 3) === 'cup')
})

t.test('a change whose notification is lost is found by the timer, which also listens again', { skip: isMissing }, async t => {
  const { one, two, sql } = await start(t, { poll: 500 })
  await store(one, '/products/4')
  await sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN cache_outbox' AND datname = current_database(); UPDATE products SET name = 'jug' WHERE id = 4")
  await until('the page has the change', async () => await nameOf(one, 4) === 'jug')
  await until('both instances listen again', async () => await listeners(sql) === 2)
  t.equal(await nameOf(two, 4), 'jug')
})

t.test('a change while Redis hangs is applied when it is back', { skip: isMissing }, async t => {
  const { one, two, sql, server } = await start(t, { poll: 500 })
  await store(two, '/products/5')
  server.pause()
  await sql("UPDATE products SET name = 'bowl' WHERE id = 5")
  t.equal(await nameOf(one, 5), 'bowl', 'while Redis hangs the handler responds')
  server.resume()
  await until('the page has the change', async () => await nameOf(two, 5) === 'bowl')
  await until('the change has left the table', async () => await sql('SELECT count(*) FROM cache_outbox') === '0')
  await store(two, '/products/5')
  t.equal(await nameOf(two, 5), 'bowl')
})
