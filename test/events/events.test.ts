import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { events, type EventsPluginOptions } from '../../plugins/events/index.js'
import { advanceWhile, createTestApp, forEachStore, newPrefix, sharedRedis, until, type StoreName, type TestApp } from '../helpers/index.js'
import { lacking } from '../helpers/servers/commands.js'

declare module 'fastify' {
  interface EventChannels {
    'order:placed': { id: number }
    'order:paid': { id: number, cents: number }
    'user:joined': string
  }
}

const noSharding = await lacking('ssubscribe')

function onEach (name: string, test: (t: Test, made: TestApp, store: StoreName) => Promise<unknown>, instances = 1) {
  forEachStore(['memory', 'redis', 'cluster'], store => {
    // In memory an app receives its own messages only.
    t.test(`${store}: ${name}`, { skip: store === 'cluster' && noSharding }, async t => await test(t, await createTestApp(t, { store, plugins: { events: {} }, instances: store === 'memory' ? 1 : instances }), store))
  })
}

/** Resolves when everything that was published to the channel before has been received by all subscribers. */
async function heardAll (app: FastifyInstance, channel: string, lists: unknown[][], count: number): Promise<void> {
  await until(`${count} messages of ${channel} are heard`, () => lists.every(list => list.length >= count))
  // One more message, after which no earlier one is in flight.
  let last = false
  const end = await app.events.subscribe(channel, data => { if (data === 'the last') last = true })
  await app.events.publish(channel, 'the last')
  await until('the last is heard', () => last)
  await end()
}

onEach('1,000 messages arrive once at each subscriber of two apps, by name and by glob, in order', async (t, { app: one, apps }) => {
  const lists: unknown[][] = []
  const listen = async (app: FastifyInstance, pattern: string) => {
    const list: unknown[] = []
    lists.push(list)
    await app.events.subscribe(pattern, data => { if (data !== 'the last') list.push(data) })
  }
  for (const app of apps) {
    for (const pattern of ['news:a', 'news:a', 'news:*', '*', '*:a', 'n*']) await listen(app, pattern)
  }
  const sent = Array.from({ length: 1000 }, (_, i) => i)
  await Promise.all(sent.map(async i => await one.events.publish('news:a', i)))
  await heardAll(one, 'news:a', lists, 1000)
  t.strictSame(lists, apps.flatMap(() => Array.from({ length: 6 }, () => sent)))
}, 2)

onEach('a pattern receives the channels that it matches and no others, whatever characters it has', async (t, { app }) => {
  const heard: string[] = []
  const names = ['a:b', 'a:b:c', 'a', 'ab', 'a?b', 'axb', 'a[bc]', 'ab\\', 'é:ü', '{x}:y', '^', 'a b', '#']
  const patterns = ['a:b', 'a:*', 'a?b', 'a[bc]', 'a?*', 'a[*', '*\\', 'é:*', '{x}:*', '{x}:y', '^*', '* b', '#', 'a**b*']
  for (const pattern of patterns) await app.events.subscribe(pattern, (_data, channel) => { heard.push(`${pattern} < ${channel}`) })
  for (const name of names) await app.events.publish(name, 1)
  const expected = ['a:b < a:b', 'a:* < a:b', 'a**b* < a:b', 'a:* < a:b:c', 'a**b* < a:b:c', 'a**b* < ab', 'a?b < a?b', 'a?* < a?b', 'a**b* < a?b', 'a**b* < axb',
    'a[bc] < a[bc]', 'a[* < a[bc]', 'a**b* < a[bc]', '*\\ < ab\\', 'a**b* < ab\\', 'é:* < é:ü', '{x}:* < {x}:y', '{x}:y < {x}:y', '^* < ^', '* b < a b', 'a**b* < a b', '# < #']
  await heardAll(app, 'a', [heard], expected.length)
  t.strictSame(heard.sort(), expected.sort())
})

onEach('a handler that throws or rejects is logged, and the other handlers are called', async (t, { app, lines }) => {
  const heard: unknown[] = []
  await app.events.subscribe('x', () => { throw new Error('thrown') })
  await app.events.subscribe('x', async () => { throw new Error('rejected') })
  await app.events.subscribe('x', data => { heard.push(data) })
  await app.events.publish('x', 1)
  await app.events.publish('x', 2)
  await until('both are heard', () => heard.length === 2)
  await until('all are logged', () => lines.filter(line => line['msg'] === 'events: a handler failed').length === 4)
  t.match(lines.find(line => line['reason'] === 'thrown'), { level: 50, channel: 'x' })
  t.match(lines.find(line => line['reason'] === 'rejected'), { level: 50, channel: 'x' })
  t.strictSame(heard, [1, 2])
})

onEach('an unsubscribed handler is not called, also not for a message that was on its way, and others go on', async (t, { app }) => {
  let ended = 0
  let others = 0
  const end = await app.events.subscribe('x', () => { ended++ })
  await app.events.subscribe('x', () => { others++ })
  const published = app.events.publish('x', 1)
  const done = end()
  const before = ended
  await Promise.all([published, done, end()])
  await app.events.publish('x', 2)
  await until('the other hears', () => others === 2)
  t.equal(ended, before)
  const again = await app.events.subscribe('y', () => {})
  await Promise.all([again(), app.events.subscribe('y', () => { others++ })])
  await app.events.publish('y', 1)
  await until('a subscriber that comes while the last one goes is called', () => others === 3)
  t.equal(ended, before)
})

onEach('names and data that cannot be carried are refused with a code', async (t, { app }) => {
  const loop: Record<string, unknown> = {}
  loop['loop'] = loop
  for (const name of ['', 'a*', 'a\nb', 'a\0', '\ud800', 'x'.repeat(257)]) {
    await t.rejects(app.events.publish(name, 1), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' }, JSON.stringify(name))
  }
  for (const pattern of ['', 'a\nb*', '\udc00*']) await t.rejects(app.events.subscribe(pattern, () => {}), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' })
  for (const data of [undefined, () => {}, loop, 1n]) await t.rejects(app.events.publish('x', data), { code: 'FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE' })
})

onEach('closing waits for handlers that run, and then nothing can be published or subscribed to', async (t, { app, clock }) => {
  let open = (): void => {}
  const gate = new Promise<void>(resolve => { open = resolve })
  const steps: string[] = []
  await app.events.subscribe('x', async () => {
    steps.push('began')
    await gate
    steps.push('finished')
  })
  await app.events.publish('x', 1)
  await until('it runs', () => steps.length === 1)
  const closing = app.close().then(() => { steps.push('closed') })
  await clock.advance('4s')
  t.strictSame(steps, ['began'])
  open()
  await advanceWhile(clock, closing)
  t.strictSame(steps, ['began', 'finished', 'closed'])
  await t.rejects(app.events.publish('x', 1), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 })
  await t.rejects(app.events.subscribe('x', () => {}), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE' })
})

for (const [closeTimeout, atLeast, atMost] of [['3s', 3000, 3100], [0, 0, 100]] as const) {
  t.test(`closing waits for a closeTimeout of ${closeTimeout} at most for a handler that does not end`, async t => {
    const { app, lines, clock } = await createTestApp(t, { plugins: { events: { closeTimeout } } })
    let began = false
    await app.events.subscribe('x', async () => {
      began = true
      await new Promise(() => {})
    })
    await app.events.publish('x', 1)
    await until('it runs', () => began)
    const { passed } = await advanceWhile(clock, app.close(), { step: 100 })
    t.ok(passed >= atLeast && passed <= atMost, `closed after ${passed} ms`)
    t.match(lines.find(line => String(line['msg']).includes('still ran')), { handlers: 1 })
  })
}

t.test('all subscribers of a process share one connection and, of a channel, one subscription', async t => {
  const name = newPrefix()
  const { app, prefix, clock } = await createTestApp(t, { store: 'redis', plugins: { events: {} }, connection: { connectionName: name } })
  const client = (await sharedRedis()).client()
  const connections = async () => String(await client.client('LIST')).split('\n').filter(line => line.includes(`name=${name} `)).length
  const channels = async () => (await client.pubsub('CHANNELS', `${prefix}:*`)).length
  t.equal(await connections(), 1, 'there is none for subscribers while there are none')
  const ends = await Promise.all(Array.from({ length: 50 }, async (_, i) => await app.events.subscribe(`c:${i % 5}`, () => {})))
  t.equal(await connections(), 2)
  t.equal(await channels(), 5)
  t.same(await client.pubsub('NUMSUB', `${prefix}:events:#c:1`), [`${prefix}:events:#c:1`, 1])
  await Promise.all(ends.map(async end => await end()))
  t.equal(await channels(), 0)
  await advanceWhile(clock, app.close())
  let left = -1
  await until('both connections are closed', async () => { left = await connections(); return left === 0 })
  t.equal(left, 0)
})

t.test('apps with different prefixes receive no messages of each other, whatever the names', async t => {
  const heard: string[] = []
  const prefix = newPrefix()
  const [one, two] = await Promise.all([prefix, `${prefix}:events:`].map(async prefix => (await createTestApp(t, { store: 'redis', prefix, plugins: { events: {} } })).app))
  if (!one || !two) throw new Error('there are two')
  await one.events.subscribe('*', (_data, channel) => { heard.push(`one < ${channel}`) })
  await two.events.subscribe('*', (_data, channel) => { heard.push(`two < ${channel}`) })
  const names = ['x', ':events:#x', '#x', 'events:#x']
  for (const name of names) {
    await one.events.publish(name, 1)
    await two.events.publish(name, 1)
  }
  await until('each hears its own', () => heard.length >= 8)
  t.same(heard.sort(), names.flatMap(name => [`one < ${name}`, `two < ${name}`]).sort())
})

t.test('apps with one prefix on different databases of a server receive no messages of each other, and those on one database do', async t => {
  const prefix = newPrefix()
  const heard: string[] = []
  const open = async (db: number) => {
    const { app } = await createTestApp(t, { store: 'redis', prefix, connection: { db }, plugins: { events: {} } })
    for (const pattern of ['news', 'n*']) await app.events.subscribe(pattern, data => { heard.push(`${db} ${pattern} < ${data}`) })
    return app
  }
  const apps = [await open(0), await open(1), await open(1), await open(10)]
  for (const [index, app] of apps.entries()) await app.events.publish('news', index)
  const expected = [[0, 0], [1, 1], [1, 1], [1, 2], [1, 2], [10, 3]].flatMap(([db, data]) => ['news', 'n*'].map(pattern => `${db} ${pattern} < ${data}`)).sort()
  await until('each has heard its own', () => heard.length >= expected.length)
  t.same(heard.toSorted(), expected)
})

t.test('a message that is not JSON is dropped, and logged once per channel', async t => {
  const { app, prefix, lines } = await createTestApp(t, { store: 'redis', plugins: { events: {} } })
  const heard: unknown[] = []
  await app.events.subscribe('*', data => { heard.push(data) })
  for (const channel of ['a', 'a', 'b']) await app.redis.publish(`${prefix}:events:#${channel}`, '{"secret')
  await app.events.publish('a', null)
  await until('the valid one arrives', () => heard.length === 1)
  t.strictSame(heard, [null])
  t.same(lines.filter(line => String(line['msg']).includes('not JSON')).map(line => line['channel']), ['a', 'b'])
  t.notMatch(JSON.stringify(lines), /secret/)
})

t.test('invalid options are refused at registration', async t => {
  for (const options of [{ timeout: 'soon' }, { subscribeTimeout: 0 }, { closeTimeout: -1 }, { timeOut: 1 }, { redis: {} }, { clock: Date }]) {
    const app = Fastify()
    // As a caller without types may pass.
    await t.rejects(async () => await app.register(events, options as EventsPluginOptions), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' }, JSON.stringify(options))
  }
})
