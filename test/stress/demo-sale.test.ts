import t from 'tap'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/app/client.js'
import { shopStores, startShop } from '../helpers/demo/start-shop.js'
import { until } from '../helpers/index.js'

const PIECES = 100
const BUYERS = 1000

t.test('1,000 buyers of 100 pieces, all at once on two instances and three times over, get 100 orders', async t => {
  const apps = await startShop(t, {
    env: (await shopStores()).Redis,
    instances: 2,
    // Verifying a thousand passwords would take a minute.
    routes: app => { app.post<{ Params: { user: string } }>('/enter/:user', async request => { await request.login(request.params.user) }) }
  })
  const [app] = apps
  const admin = client(app, '10.0.0.1')
  await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })
  await app.db.query('UPDATE products SET stock = 500 WHERE id = 301')
  t.equal((await admin.send('POST', '/sale/301', { pieces: PIECES })).statusCode, 200)
  const buyers = await Promise.all(Array.from({ length: BUYERS }, async (_, i) => {
    const buyer = client(apps[i % 2] ?? app, `10.1.${i >> 8}.${i & 255}`)
    await buyer.send('POST', `/enter/${i + 1}`)
    return buyer
  }))
  const buy = async () => await Promise.all(buyers.map(async buyer => await buyer.send('POST', '/sale/301/buy')))
  const orders = async () => await app.db.query<{ userId: number }>(
    'SELECT user_id AS "userId" FROM orders JOIN order_items ON order_id = id WHERE product_id = 301 AND checkout_id IS NOT NULL')

  t.same((await buy()).map(({ statusCode, body }) => `${statusCode} ${body}`).filter(answer => !/^200|^409/.test(answer)), [])
  // A response may be lost on a busy machine: the buyer then gets the piece with a retry.
  await until('all are sold', async () => (await orders()).length >= PIECES || (await buy()).length === 0, 60_000)
  const bought = (await buy()).filter(({ statusCode }) => statusCode === 200)
  const placed = await orders()
  t.same([new Set(bought.map(response => response.json().orderId)).size, placed.length, new Set(placed.map(({ userId }) => userId)).size], [PIECES, PIECES, PIECES])
  t.same(await app.db.query('SELECT stock FROM products WHERE id = 301'), [{ stock: 500 - PIECES }])
})
