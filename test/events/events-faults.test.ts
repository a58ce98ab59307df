import { createServer, connect, type AddressInfo } from 'node:net'
import { once } from 'node:events'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import t from 'tap'
import { events } from '../../plugins/events/index.js'
import { builder } from '../helpers/events/events-app.js'
import { startCluster, startProxy, startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
const cluster = await startCluster()

t.test('after CLIENT KILL it subscribes again, tells of the gap, and hears', async t => {
  const app = await builder(t, { url: server.url, prefix: 'kill', connectionName: 'kill' })()
  const heard: unknown[] = []
  const gaps: Array<{ from: number, to: number }> = []
  const before = Date.now()
  await app.events.subscribe('x', data => { heard.push(data) }, { onGap: gap => { gaps.push(gap) } })
  await app.events.subscribe('y*', data => { heard.push(data) }, { onGap: () => { throw new Error('onGap') } })
  t.equal(await server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub'), 1)
  await until('the gap is told', () => gaps.length === 1)
  await app.events.publish('x', 'after')
  await app.events.publish('yes', 'after')
  await until('both hear', () => heard.length === 2)
  const [gap = { from: 0, to: 0 }] = gaps
  t.ok(before <= gap.from && gap.from <= gap.to && gap.to <= Date.now())
})

t.test('while Redis is gone publish and subscribe fail within their time; when it is back, so are the subscriptions', async t => {
  const own = await startRedis()
  const proxy = await startProxy(own.port)
  const build = builder(t, { url: `redis://127.0.0.1:${proxy.port}`, prefix: 'gone' })
  const app = await build({}, { timeout: 100, subscribeTimeout: 200 })
  const heard: unknown[] = []
  let gaps = 0
  await app.events.subscribe('x', data => { heard.push(data) }, { onGap: () => { gaps++ } })
  await own.kill()
  const sinceAsked = stopwatch()
  await t.rejects(app.events.publish('x', 1), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 })
  await t.rejects(app.events.subscribe('y', () => {}), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 })
  t.ok(sinceAsked() < 1500, `${sinceAsked()} ms`)
  const end = await app.events.subscribe('z', data => { heard.push(data) }, { confirm: false, onGap: () => { gaps++ } })
  await own.restart()
  await until('both are told of the gap', () => gaps === 2)
  await until('publishing works', async () => { await app.events.publish('x', 1); return true })
  await app.events.publish('z', 2)
  await until('both hear', () => heard.includes(1) && heard.includes(2))
  await end()
  // What was tried while it came back may have been sent although its answer came too late.
  t.strictSame([...new Set(heard)], [1, 2])
  t.same(await own.client().pubsub('CHANNELS'), ['gone:events:#x'], 'what was refused is not listened to')
})

t.test('a connection over which nothing comes any more is noticed, and made anew', async t => {
  const own = await startRedis()
  const proxy = await startProxy(own.port)
  const app = await builder(t, { url: `redis://127.0.0.1:${proxy.port}`, prefix: 'hole' })()
  let gaps = 0
  await app.events.subscribe('x', () => {}, { onGap: () => { gaps++ } })
  const list = async () => String(await own.client().call('CLIENT', 'LIST')).trim().split('\n')
  const subscriber = async () => (await list()).find(line => line.includes(' sub=1 '))?.match(/id=(\d+)/)?.[1]
  const [old, { length: before }] = [await subscriber(), await list()]
  proxy.blackhole(true)
  // Nothing that is closed passes the hole, but the proxy connects for whom it accepts.
  await until('another connection is made', async () => (await list()).length > before)
  proxy.blackhole(false)
  await until('the gap is told', () => gaps === 1)
  t.not(await subscriber(), old)
})

t.test('while Redis hangs publish and subscribe fail within their time, and then it goes on', async t => {
  const own = await startRedis()
  const app = await builder(t, { url: own.url, prefix: 'hang' })({}, { timeout: 100, subscribeTimeout: 100 })
  let heard = 0
  const end = await app.events.subscribe('x', () => { heard++ })
  own.pause()
  const sinceAsked = stopwatch()
  await t.rejects(app.events.publish('y', 1), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE' })
  await t.rejects(app.events.subscribe('y', () => {}), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE' })
  t.ok(sinceAsked() < 1000, `${sinceAsked()} ms`)
  own.resume()
  await until('it is heard', async () => { await app.events.publish('x', 1); return heard > 0 })
  await end()
  await until('nothing is listened to', async () => (await own.client().pubsub('CHANNELS')).length === 0)
})

for (const [kind, connection] of Object.entries({ Redis: { url: server.url }, Cluster: { cluster: { nodes: cluster.startupNodes } } })) {
  t.test(`${kind}: subscribers who come and go at any time, while connections break, leave what is asked for and nothing else`, async t => {
    const app = await builder(t, { ...connection, prefix: 'churn' })({}, { timeout: 2000 })
    const nodes = kind === 'Redis' ? [server] : cluster.nodes.map(node => node.server)
    const patterns = ['a:x', 'a:*', 'b:x', '*', 'b:y']
    const left: Array<() => Promise<void>> = []
    const pending: Array<Promise<unknown>> = []
    for (let round = 0; round < 300; round++) {
      pending.push(app.events.subscribe(patterns[Math.floor(Math.random() * patterns.length)] ?? '*', () => {}, { confirm: Math.random() < 0.5 })
        .then(end => { left.push(end) }))
      if (Math.random() < 0.8) pending.push(...left.splice(0, Math.ceil(Math.random() * 3)).map(async end => await end()))
      if (round % 60 === 30) await Promise.all(nodes.map(async node => await node.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')))
      if (Math.random() < 0.2) await new Promise(resolve => setImmediate(resolve))
    }
    await Promise.all(pending)
    let heard = 0
    await app.events.subscribe('a:x', () => { heard++ })
    await app.events.subscribe('*', () => { heard++ })
    await Promise.all(left.map(async end => await end()))
    await app.events.publish('a:x', 1)
    await until('both hear', () => heard === 2)
    const asked = async () => {
      const replies = await Promise.all(nodes.map(async node => await Promise.all([
        node.client().call('PUBSUB', 'CHANNELS', 'churn:*'), node.client().call('PUBSUB', 'SHARDCHANNELS', 'churn:*')]) as string[][]))
      return new Set(replies.flat(2)).size
    }
    t.equal(await asked(), kind === 'Redis' ? 1 : 17, 'the channel, and on a Cluster the lanes')
    if (kind === 'Redis') t.equal(await server.client().pubsub('NUMPAT'), 1)
  })
}

t.test('a user who may not subscribe is told so at once', async t => {
  const own = await startRedis({ acl: ['app on >secret ~* +@all resetchannels &acl:events:#good*'] })
  const log = collectLog()
  const app = await builder(t, { url: `redis://app:secret@127.0.0.1:${own.port}`, prefix: 'acl' }, log)()
  await app.events.subscribe('good', () => {})
  await t.rejects(app.events.subscribe('bad', () => {}), { code: 'FST_REDIS_SUITE_EVENTS_REFUSED' })
  t.equal(log.lines.filter(line => String(line['msg']).includes('cannot subscribe')).length, 1)
})

t.test('on a Cluster a slot that moves to another server is followed', async t => {
  const app = await builder(t, { cluster: { nodes: cluster.startupNodes }, prefix: 'slots' })({}, { timeout: 2000 })
  let heard = 0
  let gaps = 0
  await app.events.subscribe('moving', () => { heard++ }, { onGap: () => { gaps++ } })
  const [channel = ''] = (await Promise.all(cluster.nodes.map(async ({ server }) => await server.client().call('PUBSUB', 'SHARDCHANNELS', 'slots:*') as string[]))).flat()
  const from = await cluster.masterOf(channel)
  const to = cluster.nodes.find(node => node.role === 'master' && node !== from)
  const slot = String(await from.server.client().call('CLUSTER', 'KEYSLOT', channel))
  const id = String(await to?.server.client().call('CLUSTER', 'MYID'))
  // Only what was imported is told to all with a new epoch: otherwise the slot is nobody's when its new master dies.
  await to?.server.client().call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', String(await from.server.client().call('CLUSTER', 'MYID')))
  await from.server.client().call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', id)
  for (const node of [to, from]) await node?.server.client().call('CLUSTER', 'SETSLOT', slot, 'NODE', id)
  await until('the gap is told', () => gaps >= 1)
  await until('it is heard', async () => { await app.events.publish('moving', 1); return heard > 0 })
  t.same(await to?.server.client().call('PUBSUB', 'SHARDNUMSUB', channel), [channel, 1])
})

t.test('on a Cluster each message goes to its shard alone, and a lost master is made up for', async t => {
  const build = builder(t, { cluster: { nodes: cluster.startupNodes }, prefix: 'shard' })
  const app = await build({}, { timeout: 2000, subscribeTimeout: 10_000 })
  const heard: string[] = []
  let gaps = 0
  const names = Array.from({ length: 32 }, (_, i) => `s${i}:x`)
  for (const name of names) await app.events.subscribe(name, (_data, channel) => { heard.push(channel) }, { onGap: () => { gaps++ } })
  await app.events.subscribe('*', (_data, channel) => { heard.push(`* ${channel}`) }, { onGap: () => { gaps++ } })
  const masters = cluster.nodes.filter(({ role }) => role === 'master')
  const shares = await Promise.all(masters.map(async ({ server }) => (await server.client().call('PUBSUB', 'SHARDCHANNELS', 'shard:*') as unknown[]).length))
  t.equal(shares.reduce((a, b) => a + b), 32 + 16)
  t.ok(shares.every(share => share > 0), `channels a shard: ${shares.join(', ')}`)
  const publishAll = async () => await Promise.all(names.map(async name => {
    await until(`${name} is published`, async () => { await app.events.publish(name, 1); return true }, 20_000)
  }))
  await publishAll()
  const expected = [...names, ...names.map(name => `* ${name}`)].sort()
  await until('all are heard', () => heard.length === 64)
  t.strictSame(heard.sort(), expected)

  await masters[0]?.server.kill()
  await until('the gap is told, also of the glob', () => gaps > (shares[0] ?? 0) - 16 && gaps > 0, 20_000)
  await until('all is heard again', async () => {
    heard.length = 0
    await publishAll()
    await new Promise(resolve => setTimeout(resolve, 100))
    return heard.length === 64
  }, 20_000)
  t.strictSame(heard.sort(), expected)
})

t.test('a connection that is taken and then left without a word is given up for another', async t => {
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
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(events, { redis: client })
  await app.events.subscribe('x', () => {})
  t.equal(sockets.length, 3)
})

t.test('a user that may not PING keeps its connection', async t => {
  const own = await startRedis({ acl: ['app on >secret ~* &* +@all -ping'] })
  const app = await builder(t, { host: own.host, port: own.port, username: 'app', password: 'secret' })()
  let gaps = 0
  const heard: unknown[] = []
  await app.events.subscribe('x', data => { heard.push(data) }, { onGap: () => { gaps++ } })
  await until('it has asked', async () => (await own.client().call('ACL', 'LOG') as unknown[]).length > 0)
  await app.redis.get('what is asked after that')
  await app.events.publish('x', 'after')
  await until('it hears', () => heard.length === 1)
  t.equal(gaps, 0)
})

t.test('with a keyPrefix what is published to a Cluster is heard, by name and by glob', async t => {
  const app = await builder(t, { cluster: { nodes: cluster.startupNodes }, prefix: 'keyed', keyPrefix: 'app:' })()
  const heard: unknown[] = []
  for (const pattern of ['a:b', 'a:*', '*']) await app.events.subscribe(pattern, data => { heard.push([pattern, data]) })
  await app.events.publish('a:b', 1)
  await until('all hear', () => heard.length === 3)
})

t.test('who begins to consume as the app closes leaves no connection', async t => {
  const own = await startRedis()
  const client = new Redis(own.url)
  t.teardown(() => client.disconnect())
  await once(client, 'ready')
  const app = Fastify()
  await app.register(events, { redis: client })
  await app.ready()
  const consuming = app.events.stream('late').consume({ group: 'group', handler: () => {} })
  await Promise.allSettled([consuming, app.close()])
  const names = async () => String(await own.client().client('LIST')).split('\n').filter(line => / sub=1 /.test(line))
  // A connection that was begun would be there after another one that began later.
  const later = client.duplicate()
  await later.subscribe('later')
  t.equal((await names()).length, 1)
  later.disconnect()
})
