import { Cluster } from 'ioredis'
import t from 'tap'
import { startCluster, until } from '../helpers/index.js'
import { createHandler, startStreams, upTo } from '../helpers/events/streams.js'

const cluster = await startCluster({ nodeTimeout: 1000 })

t.test('when a master of a Cluster dies, consumer and reader go on at its replica, and what had come there is not lost', async t => {
  const client = new Cluster(cluster.startupNodes, { clusterRetryStrategy: () => 50 })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  const { streams } = await startStreams(t, client, 'failover', 500)
  const stream = streams.stream<number>('orders', { partitions: 3 })
  const source = createHandler<number>()
  await stream.consume({ group: 'mail', handler: source.handler, concurrency: 4 })
  const read: number[] = []
  const reading = async () => { for await (const { data } of stream.read({ after: '0' })) read.push(data) }
  reading().catch(error => t.error(error))
  const hasAll = (values: number[], count: number) => upTo(count).every(value => values.includes(value))
  await Promise.all(upTo(60).map(value => stream.append(value, { key: `k${value}` })))
  await until('all are handled and read', () => hasAll(source.handled.map(({ data }) => data), 60) && hasAll(read, 60))

  const key = 'failover:events:stream:{orders.0}:log'
  const { server } = await cluster.masterOf(key)
  await server.client().call('WAIT', 1, 2000)
  await server.kill()
  for (const value of upTo(60).map(i => 60 + i)) {
    await until('it is appended', async () => { await stream.append(value, { key: `k${value}` }); return true }, 20_000)
  }
  await until('all are handled', () => hasAll(source.handled.map(({ data }) => data), 120), 20_000)
  await until('all are read', () => hasAll(read, 120), 20_000)
  t.not((await cluster.masterOf(key)).server, server)
  t.equal(new Set(read).size, 120)
})
