// What the panels of the live page show: locks, idempotency, streams and write-behind.
import { randomUUID } from 'node:crypto'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import t, { type Test } from 'tap'
import type { LiveData, LiveEvent } from '../../demo/live-events.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { sharedDatabase, startShop } from '../helpers/demo/start-shop.js'
import { advanceUntil, advanceWhile, sharedRedis } from '../helpers/index.js'
import { outliveStalls } from '../helpers/redis/outlive-stalls.js'

type EventOf<K extends LiveData['kind']> = LiveEvent<Extract<LiveData, { kind: K }>>

/** Watches the events of all instances, as a page does. */
function watch<K extends LiveData['kind']> (t: Test, app: FastifyInstance, kind: K): Array<EventOf<K>> {
  const closed = new AbortController()
  t.teardown(() => closed.abort())
  const seen: Array<EventOf<K>> = []
  const isOfKind = (event: LiveEvent): event is EventOf<K> => event.kind === kind
  const read = async () => {
    for await (const { data } of app.live.watch({ kind: 'hello', limit: { max: 1, window: 1 }, isBreakable: false }, closed.signal)) if (isOfKind(data)) seen.push(data)
  }
  read().catch(() => {})
  return seen
}

const post = async (app: FastifyInstance, url: string, payload?: object, key?: string) =>
  await app.inject({ method: 'POST', url, ...payload && { payload }, ...key !== undefined && { headers: { 'idempotency-key': key } } })
const statusesOf = (responses: LightMyRequestResponse[]) => responses.map(({ statusCode }) => statusCode)

for (const [name, env] of Object.entries({ memory: {}, Redis: { REDIS_URL: (await sharedRedis()).url } })) {
  t.test(`on ${name}`, async t => {
    const clock = createTestClock()
    const [app, other = app] = await startShop(t, { env, clock, instances: name === 'Redis' ? 2 : 1 })
    const both = [app, other]
    // Another store has written tokens of its own clock, which may be ahead.
    await (await sharedDatabase()).query('UPDATE document SET fence = 0')
    if (name === 'Redis') for (const app of both) outliveStalls(app, ':lock:held:')
    const locks = watch(t, app, 'lock')
    const parcels = watch(t, app, 'parcel')
    const batches = watch(t, app, 'batch')
    const samples = watch(t, app, 'sample')
    // Instances send events while they know of an open page.
    await advanceUntil(clock, 'each instance sends samples', () => both.every(({ live }) => samples.some(({ instance }) => instance === live.instance)), { step: 100 })
    const latest = () => samples.findLast(({ instance }) => instance === app.live.instance)

    t.test('of two workers that race for the lock, the second writes after the first, with a higher token', async t => {
      const edits = Promise.all([post(app, '/live/document', { worker: 'A' }), post(other, '/live/document', { worker: 'B' })])
      const { value } = await advanceWhile(clock, edits)
      t.same(statusesOf(value), [200, 200])
      const [first, second] = value.map(response => response.json()).sort((a, b) => a.token - b.token)
      t.same([first.written, second.written], [true, true])
      t.ok(second.token > first.token)
      t.ok(second.waitedMs >= 1400, `waited ${second.waitedMs} ms`)
      await advanceUntil(clock, 'the page has all steps', () => locks.filter(({ what }) => what === 'written').length === 2)
      const held = locks.filter(({ what }) => what === 'acquired' || what === 'written').sort((a, b) => (a.token ?? 0) - (b.token ?? 0))
      t.same(held.map(({ what, token }) => [what, token]), [['acquired', first.token], ['written', first.token], ['acquired', second.token], ['written', second.token]])
    })

    t.test('a worker that does not wait gets 423 while another one has the lock', async t => {
      const edit = post(app, '/live/document', { worker: 'A' })
      locks.length = 0
      await advanceUntil(clock, 'A has the lock', () => locks.some(({ what }) => what === 'acquired'))
      const { value } = await advanceWhile(clock, post(other, '/live/document', { worker: 'B', wait: false }))
      t.match([value.statusCode, value.json().code], [423, 'FST_REDIS_SUITE_LOCK_LOCKED'])
      t.equal((await advanceWhile(clock, edit)).value.statusCode, 200)
      await advanceUntil(clock, 'the page has the failure', () => locks.some(({ worker, what }) => worker === 'B' && what === 'failed'))
    })

    // Redis expires a lock in real time, and not by the test's clock.
    if (name === 'memory') {
      t.test('the write of a worker that stalled for longer than its lock lasts is refused, as another one has written', async t => {
        const stalled = post(app, '/live/document', { worker: 'A', stall: true })
        locks.length = 0
        await advanceUntil(clock, 'A has the lock', () => locks.some(({ what }) => what === 'acquired'))
        const { value: [a, b] } = await advanceWhile(clock, Promise.all([stalled, post(other, '/live/document', { worker: 'B' })]))
        t.same([a?.json().written, b?.json().written], [false, true])
        t.ok(b?.json().token > a?.json().token)
      })
    }

    t.test('a payment that is sent five times with one key charges the card once', async t => {
      const payments = watch(t, app, 'payment')
      const key = randomUUID()
      const pay = async (at: FastifyInstance, amountCents = 2500) => await post(at, '/live/payments', { amountCents }, key)
      const { value } = await advanceWhile(clock, Promise.all([pay(app), pay(other), pay(app), pay(other)]))
      const responses = [...value, await pay(other)]
      t.same(statusesOf(responses), [200, 200, 200, 200, 200])
      t.equal(new Set(responses.map(({ body }) => body)).size, 1)
      t.equal(responses.filter(({ headers }) => headers['idempotency-replayed'] === 'true').length, 4)
      t.equal((await pay(app, 9900)).statusCode, 422, 'another amount')
      t.equal((await post(app, '/live/payments', { amountCents: 2500 })).statusCode, 400, 'no key')
      await advanceUntil(clock, 'the page has the payment', () => payments.length > 0)
      await clock.advance(1000)
      t.same(payments.map(({ paymentId }) => paymentId), [value[0]?.json().paymentId])
    })

    t.test('parcels are handled by the group once each, in the order of each customer', async t => {
      parcels.length = 0
      t.same((await post(other, '/live/parcels', { count: 6 })).json(), { appended: 6 })
      const handled = () => parcels.filter(({ what }) => what === 'handled')
      await advanceUntil(clock, 'all are handled', () => handled().length >= 6, { step: 50 })
      const appended = parcels.filter(({ what }) => what === 'appended')
      for (const customer of new Set(appended.map(each => each.customer))) {
        const idsOf = (events: typeof parcels) => events.filter(each => each.customer === customer).map(({ id }) => id)
        t.same(idsOf(handled()), idsOf(appended), customer)
      }
      t.equal(handled().length, 6)
      await advanceUntil(clock, 'the page shows the stream', () => latest()?.parcels?.lag === 0 && latest()?.parcels?.pending === 0, { step: 100 })
    })

    t.test('a damaged parcel becomes a dead letter after three attempts, and is handled when the handler is fixed', async t => {
      parcels.length = 0
      await post(app, '/live/parcels', { count: 1, damaged: true })
      await advanceUntil(clock, 'it is a dead letter', () => latest()?.parcels?.deadLetters === 1, { step: 50 })
      const steps = () => parcels.map(({ what, attempt }) => `${what} ${attempt}`)
      t.same(steps(), ['appended 0', 'taken 1', 'failed 1', 'taken 2', 'failed 2', 'taken 3', 'dead 3'])
      t.same((await post(other, '/live/parcels/replay')).json(), { replayed: 1 })
      await advanceUntil(clock, 'it is handled', () => parcels.some(({ what }) => what === 'handled'), { step: 50 })
      t.equal(new Set(parcels.map(({ id }) => id)).size, 1, 'with the same id')
      t.same((await app.inject({ method: 'DELETE', url: '/live/parcels/dead' })).json(), { discarded: 0 })
    })

    t.test('dead letters are discarded on request', async t => {
      await post(app, '/live/parcels', { count: 2, damaged: true })
      await advanceUntil(clock, 'there are two dead letters', () => latest()?.parcels?.deadLetters === 2, { step: 50 })
      t.same((await app.inject({ method: 'DELETE', url: '/live/parcels/dead' })).json(), { discarded: 2 })
    })

    t.test('views are accepted before the database has them, and a batch is one statement for many of them', async t => {
      const total = async () => (await app.db.query<{ views: number }>('SELECT coalesce(sum(views), 0)::int AS views FROM product_views'))[0]?.views ?? 0
      const before = await total()
      batches.length = 0
      t.same((await post(app, '/live/views', { count: 240 })).json(), { accepted: 240 })
      const written = () => batches.filter(batch => batch.written).reduce((sum, { views }) => sum + views, 0)
      await advanceUntil(clock, 'all are written', () => written() >= 240, { step: 100 })
      t.same([written(), await total() - before], [240, 240])
      t.ok(batches.length <= 8, `${batches.length} statements`)
    })

    t.test('views wait while the database is paused, and are written after it', async t => {
      const total = async () => (await app.db.query<{ views: number }>('SELECT coalesce(sum(views), 0)::int AS views FROM product_views'))[0]?.views ?? 0
      const before = await total()
      batches.length = 0
      t.same((await post(other, '/live/views/pause')).json(), { pausedMs: 8000 })
      await post(app, '/live/views', { count: 36 })
      await advanceUntil(clock, 'a batch is refused', () => batches.some(({ written }) => !written), { step: 100 })
      await advanceUntil(clock, 'the page shows the backlog', () => latest()?.views.backlog === 36, { step: 100, atMost: 5000 })
      t.equal(await total(), before)
      await advanceUntil(clock, 'all are written', async () => await total() === before + 36, { step: 100, atMost: 20_000 })
      await advanceUntil(clock, 'nothing waits', () => latest()?.views.backlog === 0, { step: 100 })
    })

    t.test('invalid requests are refused', async t => {
      const bad: Array<[string, object]> = [
        ['/live/document', { worker: 'C' }],
        ['/live/document', { worker: 'A', wait: 'long' }],
        ['/live/parcels', { count: 11 }],
        ['/live/parcels', {}],
        ['/live/views', { count: 501 }],
        ['/live/payments', { amountCents: 0 }]
      ]
      t.same(statusesOf(await Promise.all(bad.map(([url, payload]) => post(app, url, payload, randomUUID())))), bad.map(() => 400))
    })
  })
}
