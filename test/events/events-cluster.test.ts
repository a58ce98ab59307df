// A Cluster of its own, whose slots move and whose masters are killed. Its own time is what is tested, so these apps have the system's clock.
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { createTestApp, startCluster, until } from '../helpers/index.js'
import { createHandler, dataOf, follow, upTo } from '../helpers/events/streams.js'

const cluster = await startCluster({ nodeTimeout: 1000 })
const servers = cluster.nodes.map(({ server }) => server)
const store = { startupNodes: cluster.startupNodes }
const events = { timeout: '2s', subscribeTimeout: '30s' }

t.test('a slot that moves to another server is followed', async t => {
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

t.test('each message goes to its shard alone, and is heard again after a master was lost; a stream goes on at its replica without loss', async t => {
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
