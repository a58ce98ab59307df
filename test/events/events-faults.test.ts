import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import t from 'tap'
import { churn, seededRandom } from '../helpers/events/churn.js'
import { createHandler, dataOf, follow, upTo } from '../helpers/events/streams.js'
import { advanceUntil, advanceWhile, createTestApp, startCluster, startProxy, startRedis, until } from '../helpers/index.js'
import { lacking } from '../helpers/servers/commands.js'

const cluster = await startCluster({ nodeTimeout: 1000 })
const noSharding = await lacking('ssubscribe')

const UNAVAILABLE = { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 }

t.test('after CLIENT KILL subscribers are subscribed again, are called with the gap, and receive messages', async t => {
  const server = await startRedis()
  const { app, clock } = await createTestApp(t, { store: server, plugins: { events: {} } })
  const heard: unknown[] = []
  const gaps: Array<{ from: number, to: number }> = []
  const before = clock.now()
  await app.events.subscribe('x', data => { heard.push(data) }, { onGap: gap => { gaps.push(gap) } })
  await app.events.subscribe('y*', data => { heard.push(data) }, { onGap: () => { throw new Error('onGap') } })
  await clock.advance('1 minute')
  t.equal(await server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub'), 1)
  await advanceUntil(clock, 'the gap is reported', () => gaps.length === 1)
  await app.events.publish('x', 'after')
  await app.events.publish('yes', 'after')
  await until('both hear', () => heard.length === 2)
  t.same(heard, ['after', 'after'])
  const [gap = { from: 0, to: 0 }] = gaps
  t.ok(before + 60_000 <= gap.from && gap.from < gap.to && gap.to <= clock.now(), JSON.stringify({ before, gap, now: clock.now() }))
})

t.test('while Redis is down publish and subscribe fail within their timeouts; when it returns, subscriptions are restored', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const store = { url: `redis://127.0.0.1:${proxy.port}`, answers: false }
  const { app, clock, prefix } = await createTestApp(t, { store, plugins: { events: { timeout: 100, subscribeTimeout: 200 } } })
  const heard: unknown[] = []
  let gaps = 0
  await app.events.subscribe('x', data => { heard.push(data) }, { onGap: () => { gaps++ } })
  await server.kill()
  const { passed: published } = await advanceWhile(clock, t.rejects(app.events.publish('x', 1), UNAVAILABLE))
  t.ok(published <= 110, `publish failed after ${published} ms`)
  const { passed: subscribed } = await advanceWhile(clock, t.rejects(app.events.subscribe('y', () => {}), UNAVAILABLE))
  t.ok(subscribed <= 210, `subscribe failed after ${subscribed} ms`)
  const end = await app.events.subscribe('z', data => { heard.push(data) }, { confirm: false, onGap: () => { gaps++ } })
  await server.restart()
  await advanceUntil(clock, 'both are called with the gap', () => gaps === 2)
  await advanceUntil(clock, 'publishing works', async () => await app.events.publish('x', 1).then(() => true, () => false))
  await app.events.publish('z', 2)
  await until('both hear', () => heard.includes(1) && heard.includes(2))
  await end()
  // A message may have been sent although its reply came too late, while the server restarted.
  t.strictSame([...new Set(heard)], [1, 2])
  t.same(await server.client().pubsub('CHANNELS'), [`${prefix}:events:#x`], 'a refused subscription is not left behind')
})

t.test('a silent connection is noticed within two heartbeats, and replaced', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const { app, clock } = await createTestApp(t, { store: { url: `redis://127.0.0.1:${proxy.port}`, answers: false }, plugins: { events: {} } })
  let gaps = 0
  await app.events.subscribe('x', () => {}, { onGap: () => { gaps++ } })
  const list = async () => String(await server.client().call('CLIENT', 'LIST')).trim().split('\n')
  const subscriber = async () => (await list()).find(line => line.includes(' sub=1 '))?.match(/id=(\d+)/)?.[1]
  const [old, { length: before }] = [await subscriber(), await list()]
  proxy.blackhole(true)
  // A close does not pass the black hole, but the proxy connects for the client that it accepts.
  await clock.advance('3900ms')
  t.equal((await list()).length, before, 'the heartbeat is not overdue yet')
  // The heartbeat's deadline, and then the first retry.
  await clock.advance(100)
  await clock.advance(50)
  await until('another connection is made', async () => (await list()).length > before)
  proxy.blackhole(false)
  await advanceUntil(clock, 'the gap is reported', () => gaps === 1)
  t.not(await subscriber(), old)
})

t.test('while Redis hangs publish and subscribe fail within their timeouts, and then subscribers receive messages again', async t => {
  const server = await startRedis()
  const { app, clock } = await createTestApp(t, { store: server, plugins: { events: { timeout: 100, subscribeTimeout: 100 } } })
  let heard = 0
  const end = await app.events.subscribe('x', () => { heard++ })
  server.pause()
  const { passed: published } = await advanceWhile(clock, t.rejects(app.events.publish('y', 1), UNAVAILABLE))
  const { passed: subscribed } = await advanceWhile(clock, t.rejects(app.events.subscribe('y', () => {}), UNAVAILABLE))
  // Both fail at their deadline and not before: the reply may still arrive.
  t.same([published, subscribed], [100, 100])
  server.resume()
  await advanceUntil(clock, 'it is heard', async () => await app.events.publish('x', 1).then(() => heard > 0, () => false))
  await end()
  let channels: unknown[] = []
  await until('nothing is subscribed to', async () => { channels = await server.client().pubsub('CHANNELS') as unknown[]; return channels.length === 0 })
  t.same(channels, [])
})

for (const store of ['redis', 'cluster'] as const) {
  t.test(`${store}: subscribers that come and go while connections break leave the requested subscriptions and no others`, { skip: store === 'cluster' && noSharding }, async t => {
    await churn(t, { store, rounds: 60, breakEvery: 20, random: seededRandom(1) })
  })
}

t.test('a user who may not subscribe is refused at once, and it is logged once', async t => {
  const server = await startRedis({ acl: ['app on >secret ~* +@all resetchannels &acl:events:#good*'] })
  const { app, lines } = await createTestApp(t, { store: { url: `redis://app:secret@127.0.0.1:${server.port}` }, prefix: 'acl', plugins: { events: {} } })
  await app.events.subscribe('good', () => {})
  // The clock stands still, so that no deadline passes.
  await t.rejects(app.events.subscribe('bad', () => {}), { code: 'FST_REDIS_SUITE_EVENTS_REFUSED' })
  t.equal(lines.filter(line => String(line['msg']).includes('cannot subscribe')).length, 1)
})

t.test('a refused subscription without confirmation is retried until it is allowed', async t => {
  const server = await startRedis({ acl: ['app on >secret ~* +@all resetchannels'] })
  const { app, clock, lines } = await createTestApp(t, { store: { url: `redis://app:secret@127.0.0.1:${server.port}` }, prefix: 'acl', plugins: { events: {} } })
  let gaps = 0
  await app.events.subscribe('x', () => {}, { confirm: false, onGap: () => { gaps++ } })
  const refusals = () => lines.filter(line => String(line['msg']).includes('cannot subscribe')).length
  await until('it is refused', () => refusals() === 1)
  await server.client().call('ACL', 'SETUSER', 'app', 'allchannels')
  await clock.advance(900)
  t.equal(gaps, 0)
  await clock.advance(100)
  await until('it is subscribed', () => gaps === 1)
  t.equal(refusals(), 1)
})

t.test('a connection that is accepted and then receives no reply is replaced', async t => {
  const server = await startRedis()
  const sockets: number[] = []
  const net = createServer(socket => {
    const target = connect(server.port, server.host)
    t.teardown(() => { socket.destroy(); target.destroy() })
    // The client's own is the first one.
    if (sockets.push(1) !== 2) socket.pipe(target).pipe(socket)
  }).listen(0, '127.0.0.1')
  t.teardown(() => net.close())
  await once(net, 'listening')
  const client = new Redis((net.address() as AddressInfo).port, '127.0.0.1', { connectTimeout: 300 })
  t.teardown(() => client.disconnect())
  await once(client, 'ready')
  const { app, clock } = await createTestApp(t, { plugins: { events: { redis: client } } })
  const subscribing = app.events.subscribe('x', () => {})
  await until('the silent connection is accepted', () => sockets.length === 2)
  await clock.advance(290)
  t.equal(sockets.length, 2)
  await advanceWhile(clock, subscribing)
  t.equal(sockets.length, 3)
})

t.test('a user that may not PING keeps its connection', async t => {
  const server = await startRedis({ acl: ['app on >secret ~* &* +@all -ping'] })
  const { app, clock } = await createTestApp(t, { store: { url: `redis://app:secret@127.0.0.1:${server.port}` }, plugins: { events: {} } })
  let gaps = 0
  const heard: unknown[] = []
  await app.events.subscribe('x', data => { heard.push(data) }, { onGap: () => { gaps++ } })
  await clock.advance('2s')
  let refused: unknown[] = []
  await until('the heartbeat is refused', async () => { refused = await server.client().call('ACL', 'LOG') as unknown[]; return refused.length > 0 })
  await clock.advance('2s')
  await app.redis.get('a command that is answered after it')
  await app.events.publish('x', 'after')
  await until('it hears', () => heard.length === 1)
  t.same(heard, ['after'])
  t.equal(gaps, 0)
})

t.test('with a keyPrefix a message that is published to a Cluster is received, by name and by glob', { skip: noSharding }, async t => {
  const { app } = await createTestApp(t, { store: 'cluster', connection: { keyPrefix: 'app:' }, plugins: { events: {} } })
  const heard: unknown[] = []
  const patterns = ['a:b', 'a:*', '*']
  for (const pattern of patterns) await app.events.subscribe(pattern, data => { heard.push([pattern, data]) })
  await app.events.publish('a:b', 1)
  await until('all hear', () => heard.length === 3)
  t.same(heard.sort(), patterns.map(pattern => [pattern, 1]).sort())
})

t.test('a consumer that begins as the app closes leaves no connection', async t => {
  const server = await startRedis()
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  await once(client, 'ready')
  const { app, clock } = await createTestApp(t, { plugins: { events: { redis: client } } })
  const consuming = app.events.stream('late').consume({ group: 'group', handler: () => {} })
  await advanceWhile(clock, Promise.allSettled([consuming, app.close()]), { step: 100 })
  const names = async () => String(await server.client().client('LIST')).split('\n').filter(line => / sub=1 /.test(line))
  // A connection that was opened would be there after another one that was opened later.
  const later = client.duplicate()
  await later.subscribe('later')
  t.equal((await names()).length, 1)
  later.disconnect()
})

// A separate Cluster, whose slots move and whose masters are killed. These tests are about its own time, so the apps have the system's clock.
const servers = cluster.nodes.map(({ server }) => server)
const store = { startupNodes: cluster.startupNodes }
const events = { timeout: '2s', subscribeTimeout: '30s' }

t.test('a slot that moves to another server is followed', { skip: noSharding }, async t => {
  const { app, prefix } = await createTestApp(t, { store, clock: 'real', plugins: { events } })
  let heard = 0
  let gaps = 0
  await app.events.subscribe('moving', () => { heard++ }, { onGap: () => { gaps++ } })
  const [channel = ''] = (await Promise.all(servers.map(async server => await server.client().call('PUBSUB', 'SHARDCHANNELS', `${prefix}:*`) as string[]))).flat()
  const from = await cluster.masterOf(channel)
  const to = cluster.nodes.find(node => node.role === 'master' && node !== from)
  const slot = String(await from.server.client().call('CLUSTER', 'KEYSLOT', channel))
  const id = String(await to?.server.client().call('CLUSTER', 'MYID'))
  // A node that imported a slot takes a new epoch, which all nodes learn: otherwise the slot is lost when its new master dies.
  await to?.server.client().call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', String(await from.server.client().call('CLUSTER', 'MYID')))
  await from.server.client().call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', id)
  for (const node of [to, from]) await node?.server.client().call('CLUSTER', 'SETSLOT', slot, 'NODE', id)
  await until('the gap is reported', () => gaps >= 1)
  await until('it is heard', async () => { await app.events.publish('moving', 1); return heard > 0 })
  t.same(await to?.server.client().call('PUBSUB', 'SHARDNUMSUB', channel), [channel, 1])
})

t.test('each message goes to its shard alone, and is received again after a master was lost; a stream continues at its replica without loss', { skip: noSharding }, async t => {
  const { app, prefix } = await createTestApp(t, { store, clock: 'real', plugins: { events } })
  const heard: string[] = []
  let gaps = 0
  const names = upTo(32).map(i => `s${i}:x`)
  for (const name of names) await app.events.subscribe(name, (_data, channel) => { heard.push(channel) }, { onGap: () => { gaps++ } })
  await app.events.subscribe('*', (_data, channel) => { heard.push(`* ${channel}`) }, { onGap: () => { gaps++ } })
  const masters = cluster.nodes.filter(({ role }) => role === 'master')
  const shares = await Promise.all(masters.map(async ({ server }) => (await server.client().call('PUBSUB', 'SHARDCHANNELS', `${prefix}:*`) as unknown[]).length))
  t.equal(shares.reduce((a, b) => a + b), 32 + 16)
  t.ok(shares.every(share => share > 0), `channels a shard: ${shares.join(', ')}`)
  const publishAll = async () => await Promise.all(names.map(async name => {
    await until(`${name} is published`, async () => { await app.events.publish(name, 1); return true }, 20_000)
  }))
  await publishAll()
  const expected = [...names, ...names.map(name => `* ${name}`)].sort()
  await until('all are heard', () => heard.length >= 64)
  t.strictSame(heard.sort(), expected)

  const stream = app.events.stream<number>('orders', { partitions: 3 })
  const source = createHandler<number>()
  await stream.consume({ group: 'mail', handler: source.handler, concurrency: 4 })
  const read = follow(t, stream.read({ after: '0' }))
  const missing = (values: number[], count: number) => upTo(count).filter(value => !values.includes(value))
  await Promise.all(upTo(60).map(value => stream.append(value, { key: `k${value}` })))
  await until('all events are handled and read', () => missing(dataOf(source.handled), 60).length + missing(dataOf(read), 60).length === 0)

  const key = `${prefix}:events:stream:{orders.0}:log`
  const { server } = await cluster.masterOf(key)
  const share = shares[masters.findIndex(master => master.server === server)] ?? 0
  t.equal(await server.client().call('WAIT', 1, 5000), 1)
  await server.kill()
  for (const value of upTo(60).map(i => 60 + i)) {
    await until('it is appended', async () => { await stream.append(value, { key: `k${value}` }); return true }, 20_000)
  }
  await until('the gap is reported, also to the glob', () => gaps > share - 16 && gaps > 0, 20_000)
  await until('every message is heard again', async () => {
    heard.length = 0
    await publishAll()
    await sleep(100)
    return heard.length === 64
  }, 20_000)
  t.strictSame(heard.sort(), expected)
  await until('all events are handled and read', () => missing(dataOf(source.handled), 120).length + missing(dataOf(read), 120).length === 0, 20_000)
  t.not((await cluster.masterOf(key)).server, server)
  t.same(missing(dataOf(source.handled), 120), [])
  t.same([...new Set(dataOf(read))].sort((a, b) => a - b), upTo(120))
})
