import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { events, type EventsPluginOptions } from '../../plugins/events/index.js'
import { builder, type Build } from '../helpers/events/events-app.js'
import { startCluster, startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

declare module 'fastify' {
  interface EventChannels {
    'order:placed': { id: number }
    'order:paid': { id: number, cents: number }
    'user:joined': string
  }
}

const server = await startRedis()
const cluster = await startCluster()
let prefixes = 0

function onEach (name: string, test: (t: Test, build: Build, log: ReturnType<typeof collectLog>) => Promise<unknown>) {
  const connections = { memory: undefined, Redis: { url: server.url }, Cluster: { cluster: { nodes: cluster.startupNodes } } }
  for (const [kind, connection] of Object.entries(connections)) {
    t.test(`${kind}: ${name}`, async t => {
      const log = collectLog()
      // A deadline for a machine with other things to do: what is asked here is not how quick it is.
      const build = builder(t, connection && { ...connection, prefix: `e${++prefixes}` }, log)
      return await test(t, async (more, options) => await build(more, { timeout: 2000, ...options }), log)
    })
  }
}

/** Resolves when all is heard that had been published before, on the channel and by all who can hear it. */
async function heardAll (app: FastifyInstance, channel: string, lists: unknown[][], count: number): Promise<void> {
  await until(`${count} messages of ${channel} are heard`, () => lists.every(list => list.length >= count))
  // One more, after which none of those before it is on its way.
  let last = false
  const end = await app.events.subscribe(channel, data => { if (data === 'the last') last = true })
  await app.events.publish(channel, 'the last')
  await until('the last is heard', () => last)
  await end()
}

onEach('1,000 messages are heard once by each subscriber of two apps, exact and by glob, in order', async (t, build) => {
  const [one, two] = [await build(), await build()]
  const lists: unknown[][] = []
  const listen = async (app: FastifyInstance, pattern: string) => {
    const list: unknown[] = []
    lists.push(list)
    await app.events.subscribe(pattern, data => { if (data !== 'the last') list.push(data) })
  }
  for (const app of [one, two]) {
    for (const pattern of ['news:a', 'news:a', 'news:*', '*', '*:a', 'n*']) await listen(app, pattern)
  }
  const sent = Array.from({ length: 1000 }, (_, i) => i)
  await Promise.all(sent.map(async i => await one.events.publish('news:a', i)))
  await heardAll(one, 'news:a', lists, 1000)
  t.equal(lists.length, 12)
  for (const list of lists) t.strictSame(list, sent)
})

onEach('a pattern hears what it matches and nothing else, whatever characters it has', async (t, build) => {
  const app = await build()
  const heard: string[] = []
  const names = ['a:b', 'a:b:c', 'a', 'ab', 'a?b', 'axb', 'a[bc]', 'ab\\', 'é:ü', '{x}:y', '^', 'a b', '#']
  const patterns = ['a:b', 'a:*', 'a?b', 'a[bc]', 'a?*', 'a[*', '*\\', 'é:*', '{x}:*', '{x}:y', '^*', '* b', '#', 'a**b*']
  for (const pattern of patterns) await app.events.subscribe(pattern, (_data, channel) => { heard.push(`${pattern} < ${channel}`) })
  for (const name of names) await app.events.publish(name, 1)
  const expected = ['a:b < a:b', 'a:* < a:b', 'a**b* < a:b', 'a:* < a:b:c', 'a**b* < a:b:c', 'a**b* < ab', 'a?b < a?b', 'a?* < a?b', 'a**b* < a?b', 'a**b* < axb',
    'a[bc] < a[bc]', 'a[* < a[bc]', 'a**b* < a[bc]', '*\\ < ab\\', 'a**b* < ab\\', 'é:* < é:ü', '{x}:* < {x}:y', '{x}:y < {x}:y', '^* < ^', '* b < a b', 'a**b* < a b', '# < #']
  await until('all is heard', () => heard.length >= expected.length)
  t.strictSame(heard.sort(), expected.sort())
})

onEach('a handler that throws or rejects is logged, and the others hear', async (t, build, log) => {
  const app = await build()
  const heard: unknown[] = []
  await app.events.subscribe('x', () => { throw new Error('thrown') })
  await app.events.subscribe('x', async () => { throw new Error('rejected') })
  await app.events.subscribe('x', data => { heard.push(data) })
  await app.events.publish('x', 1)
  await app.events.publish('x', 2)
  await until('both are heard', () => heard.length === 2)
  await until('all are logged', () => log.lines.filter(line => line['msg'] === 'events: a handler failed').length === 4)
  t.match(log.lines.find(line => line['reason'] === 'thrown'), { level: 50, channel: 'x' })
  t.ok(log.lines.some(line => line['reason'] === 'rejected'))
})

onEach('after unsubscribing no call comes, also none of what was on its way, and others go on', async (t, build) => {
  const app = await build()
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
  await until('who comes while the last one goes is heard', () => others === 3)
})

onEach('names and data that cannot be carried are refused with a code', async (t, build) => {
  const app = await build()
  const loop: Record<string, unknown> = {}
  loop['loop'] = loop
  for (const name of ['', 'a*', 'a\nb', 'a\0', '\ud800', 'x'.repeat(257)]) {
    await t.rejects(app.events.publish(name, 1), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' }, JSON.stringify(name))
  }
  for (const pattern of ['', 'a\nb*', '\udc00*']) await t.rejects(app.events.subscribe(pattern, () => {}), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' })
  for (const data of [undefined, () => {}, loop, 1n]) await t.rejects(app.events.publish('x', data), { code: 'FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE' })
})

onEach('closing waits for handlers that run, and ends what waits', async (t, build) => {
  const app = await build()
  let began = false
  let finished = false
  await app.events.subscribe('x', async () => {
    began = true
    await new Promise(resolve => setTimeout(resolve, 50))
    finished = true
  })
  await app.events.publish('x', 1)
  await until('it runs', () => began)
  await app.close()
  t.ok(finished)
  await t.rejects(app.events.publish('x', 1), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 })
  await t.rejects(app.events.subscribe('x', () => {}), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE' })
})

t.test('closing does not wait longer than closeTimeout for a handler that does not end', async t => {
  const log = collectLog()
  const app = await builder(t, undefined, log)({}, { closeTimeout: 20 })
  let began = false
  await app.events.subscribe('x', async () => {
    began = true
    await new Promise(() => {})
  })
  await app.events.publish('x', 1)
  await until('it runs', () => began)
  const sinceAsked = stopwatch()
  await app.close()
  t.ok(sinceAsked() < 1000)
  t.match(log.lines.find(line => String(line['msg']).includes('still ran')), { handlers: 1 })
})

const subscribersOf = async (prefix: string) => (await server.client().pubsub('CHANNELS', `${prefix}:*`)).length
const clientsNamed = async (name: string) => String(await server.client().client('LIST')).split('\n').filter(line => line.includes(`name=${name} `))

t.test('all subscribers of a process share one connection and, of a channel, one subscription', async t => {
  const build = builder(t, { url: server.url, prefix: 'shared', connectionName: 'shared' })
  const app = await build()
  t.equal((await clientsNamed('shared')).length, 1, 'there is none while nobody listens')
  const ends = await Promise.all(Array.from({ length: 50 }, async (_, i) => await app.events.subscribe(`c:${i % 5}`, () => {})))
  t.equal((await clientsNamed('shared')).length, 2)
  t.equal(await subscribersOf('shared'), 5)
  t.same(await server.client().pubsub('NUMSUB', 'shared:events:#c:1'), ['shared:events:#c:1', 1])
  await Promise.all(ends.map(async end => await end()))
  t.equal(await subscribersOf('shared'), 0)
  await app.close()
  await until('both connections are closed', async () => (await clientsNamed('shared')).length === 0)
})

t.test('apps with different prefixes do not hear each other, whatever the names', async t => {
  const heard: string[] = []
  const [one, two] = await Promise.all(['p', 'p:events:'].map(async prefix => await builder(t, { url: server.url, prefix })()))
  if (!one || !two) throw new Error('there are two')
  await one.events.subscribe('*', (_data, channel) => { heard.push(`one < ${channel}`) })
  await two.events.subscribe('*', (_data, channel) => { heard.push(`two < ${channel}`) })
  for (const name of ['x', ':events:#x', '#x', 'events:#x']) {
    await one.events.publish(name, 1)
    await two.events.publish(name, 1)
  }
  await until('each hears its own', () => heard.length >= 8)
  t.equal(new Set(heard).size, 8)
  t.equal(heard.length, 8)
})

t.test('a message that is no JSON is dropped, with one line a channel', async t => {
  const log = collectLog()
  const app = await builder(t, { url: server.url, prefix: 'nojson' }, log)()
  const heard: unknown[] = []
  await app.events.subscribe('*', data => { heard.push(data) })
  for (const channel of ['a', 'a', 'b']) await server.client().publish(`nojson:events:#${channel}`, '{"secret')
  await app.events.publish('a', null)
  await until('the good one is heard', () => heard.length === 1)
  t.strictSame(heard, [null])
  t.same(log.lines.filter(line => String(line['msg']).includes('not JSON')).map(line => line['channel']), ['a', 'b'])
  t.notMatch(log.text(), /secret/)
})

t.test('options that cannot be used are refused at registration', async t => {
  for (const options of [{ timeout: 'soon' }, { subscribeTimeout: 0 }, { closeTimeout: -1 }, { timeOut: 1 }, { redis: {} }]) {
    const app = Fastify()
    // What a caller without types may give.
    await t.rejects(async () => await app.register(events, options as EventsPluginOptions), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' }, JSON.stringify(options))
  }
})
