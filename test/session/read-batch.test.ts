import { Cluster, Redis } from 'ioredis'
import t from 'tap'
import { ReadBatch } from '../../plugins/session/read-batch.js'
import { createRedisStore } from '../../plugins/session/redis-store.js'
import { joinFields } from '../../plugins/session/fields.js'
import { startCluster, startRedis, until } from '../helpers/index.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
const cluster = await startCluster()
const client = new Redis(server.url)
const clusterClient = new Cluster(cluster.startupNodes)
t.teardown(() => { client.disconnect(); clusterClient.disconnect() })
const timeouts = { idleTimeout: 3_600_000, absoluteTimeout: 7_200_000 }
const callsOf = (statistics: string, name: string) => Number(new RegExp(`cmdstat_${name}:calls=(\\d+),`).exec(statistics)?.[1] ?? 0)
const create = (fields: Record<string, string>) => ({ set: fields, isSealed: false, delete: [], create: true, from: '', text: joinFields(fields), owner: { user: 'u', device: '' } })

for (const [where, redis] of [['one server', client], ['a Cluster', clusterClient]] as const) {
  t.test(`${where}: each of a thousand reads of one turn gets its own session, and what is none concerns nobody else`, async t => {
    const store = createRedisStore(redis, 'many', timeouts)
    for (let i = 0; i < 100; i++) await store.write(`h${i}`, create({ i: String(i), text: '"with spaces  and\\nlines"' }))
    await redis.set('many:session:data:text', 'no session')
    await redis.hset('many:session:data:dead', 'dead', '1')
    await redis.hset('many:session:data:half', 'all', '{}')
    const handles = Array.from({ length: 1000 }, (_, i) => i % 10 === 9 ? ['text', 'dead', 'half', 'gone'][i % 4] ?? '' : `h${i % 100}`)
    const results = await Promise.allSettled(handles.map(handle => store.read(handle)))
    for (const [i, handle] of handles.entries()) {
      const result = results[i]
      if (handle === 'text') t.match(result, { status: 'rejected', reason: { message: /WRONGTYPE/ } })
      else if (result?.status !== 'fulfilled') t.fail(handle)
      else if (handle.startsWith('h') && handle !== 'half') t.match({ ...result.value, ...JSON.parse(result.value?.text ?? '') }, { i: Number(handle.slice(1)), text: 'with spaces  and\nlines', user: 'u', version: '1', isSealed: false, createdAt: Number })
      else t.equal(result.value, undefined)
    }
  })
}

t.test('it is one call for 64 of them, also where the server has lost the script', async t => {
  const store = createRedisStore(client, 'calls', timeouts)
  await store.write('h', create({ a: '1' }))
  await server.client().script('FLUSH')
  await server.client().config('RESETSTAT')
  t.match(await Promise.all(Array.from({ length: 200 }, () => store.read('h'))), Array.from({ length: 200 }, () => ({ text: '{"a":1}' })))
  const statistics = await server.client().info('commandstats')
  t.ok(callsOf(statistics, 'evalsha_ro') <= 4 && callsOf(statistics, 'eval_ro') <= 4)
  t.equal(callsOf(statistics, 'hmget'), 200)
})

t.test('a replica whose master is away, a user who may not, a reply that is none: all who asked hear of it', async t => {
  const own = await startRedis()
  const other = own.client()
  await other.config('SET', 'replica-serve-stale-data', 'no')
  await other.replicaof('127.0.0.1', '1')
  const store = createRedisStore(other, 'stale', timeouts)
  t.match(await Promise.allSettled([store.read('a'), store.read('b')]), [{ status: 'rejected', reason: { message: /MASTERDOWN/ } }, { status: 'rejected', reason: { message: /MASTERDOWN/ } }])
  await other.replicaof('NO', 'ONE')
  await other.call('ACL', 'SETUSER', 'limited', 'on', '>pass', '~*', '+evalsha_ro', '+eval_ro')
  const limited = own.client()
  await limited.auth('limited', 'pass')
  t.match(await Promise.allSettled([createRedisStore(limited, 'acl', timeouts).read('a')]), [{ status: 'rejected', reason: { message: /NOPERM|can't run/ } }])
  for (const answer of [null, [], 'text', [7], [null]]) {
    const odd = new ReadBatch(client, async () => answer as never)
    t.match(await Promise.allSettled([odd.read('a'), odd.read('b')]), [{ status: 'rejected' }, { status: 'rejected' }], JSON.stringify(answer))
  }
})

t.test('where the script cannot be used each session is read by itself', async t => {
  const servers = {
    'before Redis 7': await startRedis({ args: ['--rename-command', 'EVALSHA_RO', '', '--rename-command', 'EVAL_RO', ''] }),
    'a user who may not': await startRedis({ acl: ['default on nopass ~* &* +@all -evalsha_ro -eval_ro'] }),
    'part of a Cluster': await startRedis({ args: ['--cluster-enabled', 'yes'] })
  }
  await servers['part of a Cluster'].client().call('CLUSTER', 'ADDSLOTSRANGE', 0, 16383)
  for (const [what, own] of Object.entries(servers)) {
    await until('it takes keys', async () => await own.client().set('key', 1) === 'OK')
    const store = createRedisStore(own.client(), 'single', timeouts)
    for (let i = 0; i < 5; i++) await store.write(`h${i}`, create({ i: String(i) }))
    for (let round = 0; round < 2; round++) {
      const found = await Promise.all([0, 1, 2, 3, 4, 5].map(i => store.read(`h${i}`)))
      t.same(found.map(session => session?.text), ['{"i":0}', '{"i":1}', '{"i":2}', '{"i":3}', '{"i":4}', undefined], what)
    }
  }
})

t.test('what keeps writes waiting keeps no session from being read', async t => {
  const own = await startRedis()
  const store = createRedisStore(own.client(), 'paused', timeouts)
  await store.write('h', create({ a: '1' }))
  await own.client().call('CLIENT', 'PAUSE', 2000, 'WRITE')
  const waited = stopwatch()
  t.match(await store.read('h'), { text: '{"a":1}' })
  t.ok(waited() < 1000)
})
