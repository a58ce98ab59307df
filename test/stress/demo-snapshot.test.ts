import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { database } from '../../demo/database.js'

async function start (t: Test, snapshot: string) {
  const app = Fastify({ pluginTimeout: 120_000 })
  t.teardown(() => app.close())
  await app.register(database, { url: undefined, snapshot })
  return app
}

t.test('two embedded databases that start at once write one snapshot, without later changes', async t => {
  const folder = t.testdir()
  const snapshot = join(folder, 'shop.tar')
  const [app] = await Promise.all([start(t, snapshot), start(t, snapshot)])
  t.same(readdirSync(folder), ['shop.tar'])
  await app.db.query('DELETE FROM order_items')
  const later = await start(t, snapshot)
  t.match(await later.db.query('SELECT count(*) > 0 AS filled FROM order_items'), [{ filled: true }])
  t.match(await later.db.query('SELECT count(*) AS made FROM applied_schema'), [{ made: 1 }])
})
