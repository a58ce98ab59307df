import Fastify from 'fastify'
import t from 'tap'
import { database } from '../../demo/database.js'
import { mails, type Letter } from '../../demo/mails.js'

t.test('a letter that the stream gives twice is one mail; one that it does not take fails no order', async t => {
  const queued: Array<{ data: Letter, key: string | undefined }> = []
  let handle = async (_event: { data: Letter }): Promise<void> => { t.fail('nobody consumes') }
  let isRefusing = false
  // To fill the database takes its time.
  const app = Fastify({ pluginTimeout: 120_000 })
  t.teardown(() => app.close())
  app.decorate('events', {
    stream: () => ({
      async append (data: Letter, { key }: { key?: string }) {
        if (isRefusing) throw new Error('no Redis')
        queued.push({ data, key })
      },
      async consume (options: { handler: typeof handle }) { handle = options.handler }
    })
  })
  await app.register(database, { url: undefined })
  await app.register(mails)
  const [first, second] = await app.db.query<{ id: number, userId: number }>('SELECT id, user_id AS "userId" FROM orders ORDER BY id LIMIT 2')
  const { id: orderId = 0, userId = 0 } = first ?? {}
  await app.mails.queue({ userId, orderId, totalCents: 123456 })
  t.same(await app.mails.of(userId, 10), [], 'the order does not wait for it')
  t.equal(queued[0]?.key, String(userId))
  for (const event of [...queued, ...queued]) await handle(event)
  t.match(await app.mails.of(userId, 10), [{ orderId, subject: `Your order ${orderId}: 1234.56`, sentAt: String }])

  isRefusing = true
  await t.resolves(app.mails.queue({ userId: second?.userId ?? 0, orderId: second?.id ?? 0, totalCents: 1 }))
  t.equal(queued.length, 1)
})
