import Fastify from 'fastify'
import t from 'tap'
import { database } from '../../demo/database.js'
import { mails, type Letter } from '../../demo/mails.js'
import { events, redis } from '../../plugins/index.js'
import { startRedis, until } from '../helpers/index.js'
import { DATABASE_SNAPSHOT } from '../helpers/demo/shop.js'

t.test('a letter that comes twice is one mail; one that cannot be queued fails no order', async t => {
  const server = await startRedis()
  // To fill the database takes its time.
  const app = Fastify({ pluginTimeout: 120_000 })
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url })
  await app.register(events)
  await app.register(database, { url: undefined, snapshot: DATABASE_SNAPSHOT })
  await app.register(mails)
  const [first, second] = await app.db.query<{ id: number, userId: number }>('SELECT id, user_id AS "userId" FROM orders ORDER BY id LIMIT 2')
  const { id: orderId = 0, userId = 0 } = first ?? {}
  const letter: Letter = { userId, orderId, totalCents: 123456 }
  await app.mails.queue(letter)
  await app.events.stream<Letter>('mails').append(letter, { key: String(userId) })
  await until('both are delivered', async () => (await app.events.stats()).every(({ lag, pending }) => lag === 0 && pending === 0))
  t.match(await app.mails.of(userId, 10), [{ orderId, subject: `Your order ${orderId}: 1234.56`, sentAt: String }])
  t.equal((await app.mails.of(userId, 10)).length, 1)

  await server.kill()
  await t.resolves(app.mails.queue({ userId: second?.userId ?? 0, orderId: second?.id ?? 0, totalCents: 1 }))
})
