import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Fastify from 'fastify'
import t from 'tap'
import { database } from '../../demo/database.js'
import { openEmbedded } from '../../demo/embedded.js'
import { DATABASE_SNAPSHOT } from '../helpers/demo/shop.js'

t.test('a snapshot that two databases write at once is one file, and rows that come later are not in it', async t => {
  const folder = t.testdir()
  const snapshot = join(folder, 'shop.tar')
  const first = await openEmbedded(snapshot)
  await first.query('CREATE TABLE kept (id int)')
  await first.query('INSERT INTO kept VALUES (1)')
  await first.keep?.()
  const second = await openEmbedded(snapshot)
  await Promise.all([first.keep?.(), second.keep?.()])
  t.same(readdirSync(folder), ['shop.tar'])
  await first.query('INSERT INTO kept VALUES (2)')
  const later = await openEmbedded(snapshot)
  t.same(await later.query('SELECT id FROM kept'), [{ id: 1 }])
  await Promise.all([first.close(), second.close(), later.close()])
})

t.test('a shop that starts from a snapshot has its tables and rows, and makes none', async t => {
  const app = Fastify({ pluginTimeout: 120_000 })
  t.teardown(() => app.close())
  await app.register(database, { url: undefined, snapshot: DATABASE_SNAPSHOT })
  t.same(await app.db.query('SELECT count(*)::int AS made FROM applied_schema'), [{ made: 1 }])
  t.match(await app.db.query('SELECT count(*) > 0 AS filled FROM order_items'), [{ filled: true }])
})

t.test('a DATABASE_SNAPSHOT that is not a snapshot is an error that names the file', async t => {
  const snapshot = join(t.testdir(), 'shop.tar')
  writeFileSync(snapshot, 'something else')
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => { await app.register(database, { url: undefined, snapshot }) }, /DATABASE_SNAPSHOT .*shop\.tar/)
})
