import type { LightMyRequestResponse } from 'fastify'
import t from 'tap'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { client } from '../helpers/app/client.js'
import { shopStores, startShop } from '../helpers/demo/start-shop.js'
import { advanceUntil, advanceWhile, sharedRedis, until } from '../helpers/index.js'

const stores = await shopStores()
const environments = {
  memory: { env: stores.memory, instances: 1, pieces: 10 },
  Redis: { env: stores.Redis, instances: 2, pieces: 10 },
  Cluster: { env: stores.Cluster, instances: 1, pieces: 10 }
}

for (const [name, environment] of Object.entries(environments)) {
  t.test(`a sale on ${name}`, async t => {
    const clock = createTestClock()
    const apps = await startShop(t, {
      env: environment.env,
      instances: environment.instances,
      clock,
      // The password of each of a hundred buyers would take a second of CPU for ten of them.
      routes: app => { app.post<{ Params: { user: string } }>('/enter/:user', async request => { await request.login(request.params.user) }) }
    })
    const [app] = apps
    const admin = client(app, '10.0.0.1')
    await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })
    const open = async (productId: number, stock: number, pieces: number) => {
      await app.db.query('UPDATE products SET stock = $2 WHERE id = $1', [productId, stock])
      return await admin.send('POST', `/sale/${productId}`, { pieces })
    }
    const lastOrder = (await app.db.query<{ id: number }>('SELECT max(id) AS id FROM orders'))[0]?.id
    const ordersOf = async (productId: number) => await app.db.query<{ userId: number }>(
      'SELECT user_id AS "userId" FROM orders JOIN order_items ON order_id = id WHERE product_id = $1 AND checkout_id IS NOT NULL AND id > $2', [productId, lastOrder])
    const stockOf = async (productId: number) => (await app.db.query<{ stock: number }>('SELECT stock FROM products WHERE id = $1', [productId]))[0]?.stock
    const leftOf = async (productId: number) => (await admin.send('GET', `/sale/${productId}`)).json().left
    const enter = async (user: number) => {
      const visitor = client(apps[user % apps.length] ?? app, `10.1.${user >> 8}.${user & 255}`)
      await visitor.send('POST', `/enter/${user}`)
      return visitor
    }

    t.test('of ten buyers for each piece, all at once and again and again, as many have one as there are pieces', async t => {
      const { pieces } = environment
      t.equal((await open(301, 500, pieces)).statusCode, 200)
      const buyers = await Promise.all(Array.from({ length: 10 * pieces }, (_, i) => enter(i + 1)))
      const buy = async () => await Promise.all(buyers.map(async buyer => await buyer.send('POST', '/sale/301/buy')))
      t.same((await buy()).map(({ statusCode, body }) => `${statusCode} ${body}`).filter(answer => !/^200|^409/.test(answer)), [])
      // Of a busy machine an answer may be lost: that piece is ordered when its buyer comes again.
      await until('all are sold', async () => (await ordersOf(301)).length >= pieces || (await buy()).length === 0)
      const bought = (await buy()).filter(({ statusCode }) => statusCode === 200)
      t.equal(new Set(bought.map(response => response.json().orderId)).size, pieces)
      const orders = await ordersOf(301)
      t.same([orders.length, new Set(orders.map(({ userId }) => userId)).size], [pieces, pieces], 'orders in the database, one a buyer')
      t.same([await stockOf(301), await leftOf(301)], [500 - pieces, 0])
    })

    t.test('a piece that could not be ordered is for the next buyer', async t => {
      t.equal((await open(302, 5, 1)).statusCode, 200)
      await app.db.query('UPDATE products SET stock = 0 WHERE id = 302')
      const [ann, bob] = [await enter(1), await enter(2)]
      t.equal((await ann.send('POST', '/sale/302/buy')).statusCode, 409)
      t.equal(await leftOf(302), 1)
      await app.db.query('UPDATE products SET stock = 1 WHERE id = 302')
      t.equal((await bob.send('POST', '/sale/302/buy')).statusCode, 200)
      t.match((await ann.send('POST', '/sale/302/buy')).json(), { statusCode: 409, message: 'sold out' })
      t.same([await stockOf(302), await leftOf(302), (await ordersOf(302)).length], [0, 0, 1])
    })

    t.test('who bought one has the same order when he asks again; where the answer of the database was lost as well', async t => {
      await open(303, 5, 5)
      const ann = await enter(1)
      const { transaction } = app.db
      for (const each of apps) {
        each.db.transaction = async work => {
          await transaction(work)
          throw new Error('the answer is lost')
        }
      }
      const first = await ann.send('POST', '/sale/303/buy')
      for (const each of apps) each.db.transaction = transaction
      t.equal(first.statusCode, 200)
      t.same((await ann.send('POST', '/sale/303/buy')).json(), first.json())
      t.same([await stockOf(303), await leftOf(303)], [4, 4])
    })

    t.test('who took a piece and could not order it, as when the process died, orders it when he comes again', async t => {
      await open(307, 5, 1)
      const ann = await enter(4)
      const taken = await app.sale.take(307, 4)
      t.match((await ann.send('POST', '/sale/307/buy')).json(), { statusCode: 409, message: 'your order is under way' })
      await clock.advance(1999)
      t.equal((await ann.send('POST', '/sale/307/buy')).statusCode, 409)
      await clock.advance(1)
      const answer: LightMyRequestResponse = await ann.send('POST', '/sale/307/buy')
      t.equal(answer.statusCode, 200)
      // The first one lives, and fails as late as this.
      if (taken.what === 'taken') await app.sale.giveBack(307, 4, taken.piece)
      t.same([taken.what, await leftOf(307), await stockOf(307)], ['taken', 0, 4])
      t.same((await ann.send('POST', '/sale/307/buy')).json(), answer.json())
    })

    t.test('a sale begins anew with its own pieces, which one that failed in the old one does not get', async t => {
      await open(304, 5, 1)
      const taken = await app.sale.take(304, 1)
      await open(304, 5, 2)
      if (taken.what === 'taken') await app.sale.giveBack(304, 1, taken.piece)
      t.same([taken.what, await leftOf(304)], ['taken', 2])
    })

    t.test('only an admin begins one, of what there is', async t => {
      const user = await enter(3)
      t.equal((await user.send('POST', '/sale/305', { pieces: 1 })).statusCode, 403)
      t.equal((await open(305, 5, 6)).statusCode, 409)
      t.equal((await admin.send('POST', '/sale/999999', { pieces: 1 })).statusCode, 404)
      t.equal((await user.send('POST', '/sale/305/buy')).statusCode, 404)
      t.equal((await user.send('GET', '/sale/305')).statusCode, 404)
      t.equal((await client(app, '10.9.9.9').send('POST', '/sale/305/buy')).statusCode, 401)
    })

    t.test('an order that comes again with its key has the same answer, though the cart is empty by then', async t => {
      const [visitor] = [await enter(77)]
      await visitor.send('POST', '/cart/items', { productId: 306, quantity: 1 })
      const order = () => apps[0]!.inject({ method: 'POST', url: '/orders', cookies: visitor.cookies, headers: { 'idempotency-key': 'order-1' } })
      const { value: answers } = await advanceWhile(clock, Promise.all(Array.from({ length: 20 }, order)))
      t.same([...new Set(answers.map(({ statusCode, body }) => `${statusCode} ${body}`))].length, 1)
      t.equal(answers[0]?.statusCode, 200)
      const again = await order()
      t.same([again.headers['idempotency-replayed'], again.body], ['true', answers[0]?.body])
      t.equal((await visitor.send('POST', '/orders')).statusCode, 409, 'without it the cart is empty')

      // Of the sales before there may be others.
      const { orderId } = answers[0]?.json()
      const mail = async () => (await visitor.send('GET', '/me/mails')).json().find((one: { orderId: number }) => one.orderId === orderId)
      await advanceUntil(clock, 'the mail is written', async () => await mail() !== undefined)
      t.match(await mail(), { subject: /^Your order \d+: \d+\.\d\d$/, sentAt: String })
      t.equal((await client(app, '10.9.9.9').send('GET', '/me/mails')).statusCode, 401)
    })
  })
}

t.test('each key of a sale in Redis has a TTL', async t => {
  const direct = (await sharedRedis()).client()
  const keys = await direct.keys('demo:sale:*')
  t.ok(keys.some(key => key.includes('buyers')))
  const ttls = await Promise.all(keys.map(async key => await direct.pttl(key)))
  t.same(keys.filter((_, i) => (ttls[i] ?? -1) <= 0), [])
})
