import { randomUUID } from 'node:crypto'
import t from 'tap'
import { client } from '../helpers/app/client.js'
import { startShop, shopStores } from '../helpers/demo/start-shop.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const environments: Record<string, NodeJS.ProcessEnv> = {
  memory: {},
  Redis: { REDIS_URL: server.url },
  Cluster: (await shopStores()).Cluster
}

for (const [name, env] of Object.entries(environments)) {
  t.test(`statistics on ${name}`, async t => {
    const [app] = await startShop(t, { env })
    // The orders of the test before, on the same database, are not this one's.
    await app.db.query("DELETE FROM order_items WHERE product_id IN (SELECT id FROM products WHERE category = 'new')")
    const get = async (url: string, address = '10.0.0.1') => await client(app, address).send('GET', url)

    t.test('a product is told its place, and who stands around it', async t => {
      const top: Array<{ productId: number, sold: number, name: string }> = (await get('/leaderboard?limit=100')).json()
      const ranked = top.map((each, i) => ({ ...each, rank: i + 1 }))
      for (const at of [0, 1, 50]) {
        const answer = (await get(`/leaderboard/${top[at]?.productId}?neighbours=3`)).json()
        t.same(answer, { ...ranked[at], around: ranked.slice(Math.max(0, at - 3), at + 4) })
      }
      t.equal((await get('/leaderboard/2147483647')).statusCode, 404)
      t.equal((await get('/leaderboard/1?neighbours=51')).statusCode, 400)
    })

    t.test('what is sold climbs, also what was not sold before', async t => {
      const [product] = await app.db.query<{ id: number }>("INSERT INTO products (name, description, category, price_cents, stock) VALUES ('New', '', 'new', 1, 100000) RETURNING id")
      const id = product?.id ?? 0
      t.same(await app.leaderboard.around(id, 0), [])
      await app.db.query('UPDATE products SET stock = 100000 WHERE id = $1', [id])
      for (const quantity of [1, 50_000]) {
        await app.checkOut(1, { id: randomUUID(), quantities: { [id]: quantity } })
      }
      t.same(await app.leaderboard.around(id, 0), [{ productId: id, sold: 50_001, rank: 1 }])
    })

    t.test('different visitors are counted, by day and together', async t => {
      const count = async () => (await get('/statistics/visitors', '10.0.0.1')).json()
      await until('the first is counted', async () => (await count()).today === 1)
      for (let i = 0; i < 300; i++) await get('/', `10.2.${i >> 8}.${i & 255}`)
      for (let i = 0; i < 300; i++) await get('/', `10.2.${i >> 8}.${i & 255}`)
      await until('all are', async () => {
        const { today, lastSevenDays } = await count()
        return today === lastSevenDays && Math.abs(today - 301) <= 9
      })
      const before = (await count()).today
      for (let i = 0; i < 100; i++) await Promise.all([get('/nothing', `10.3.0.${i}`), get('/health', `10.3.0.${i}`)])
      t.equal((await count()).today, before, 'neither who finds nothing nor probes')
    })

    t.test('the description shows the routes', async t => {
      const { paths } = (await get('/docs/json')).json()
      for (const path of ['/leaderboard/{productId}', '/statistics/visitors', '/sale/{productId}', '/sale/{productId}/buy']) t.ok(paths[path], path)
      t.match(paths['/orders'].post.parameters, [{ name: 'idempotency-key', in: 'header', required: false }])
    })

    if (env['REDIS_URL'] === undefined) return
    t.test('visitors of the days before count as well, and each day has an end', async () => {
      const direct = server.client()
      const day = (ago: number) => `demo:{visitors}:${new Date(Date.now() - ago * 86_400_000).toISOString().slice(0, 10)}`
      await direct.del(day(0))
      await direct.pfadd(day(1), 'a', 'b')
      await direct.pfadd(day(6), 'b', 'c')
      await direct.pfadd(day(7), 'd')
      app.visitors.seen('a')
      await until('all are counted', async () => await app.visitors.count(1) === 1 && await app.visitors.count(7) === 3)
      await until('it has an end', async () => await direct.pttl(day(0)) > 7 * 86_400_000)
    })

    t.test('while Redis is gone the places come out of the database, and how many visitors there were is not known', async t => {
      const before = await app.leaderboard.around(1, 2)
      await server.kill()
      t.same(await app.leaderboard.around(1, 2), before)
      t.same((await get('/statistics/visitors')).json(), { today: null, lastSevenDays: null })
      await server.start()
      await until('they are counted again', async () => (await get('/statistics/visitors')).json().today > 0)
    })
  })
}
