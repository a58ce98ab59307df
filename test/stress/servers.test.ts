// Failover of the test servers, and their end with the process that started them; see test/helpers/helpers.test.ts for the rest.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { Cluster, Redis } from 'ioredis'
import t from 'tap'
import { startCluster, startRedis, startSentinel, until } from '../helpers/index.js'
import { clientOf, isListening, nothingLeft } from '../helpers/servers/inspect.js'

t.test('with appendonly every acknowledged write survives a restart, also while running', async t => {
  const server = await startRedis({ appendonly: true })
  const client = clientOf(t, server.url)
  await Promise.all(Array.from({ length: 1000 }, (_, i) => client.set(`key:${i}`, i)))
  await server.restart()
  t.equal(await client.dbsize(), 1000)
  await server.stop()
})

t.test('a cluster serves keys on all its masters, and a replica takes over from a killed master', async t => {
  const started = Date.now()
  const cluster = await startCluster()
  t.comment(`started in ${Date.now() - started} ms`)
  t.same(cluster.nodes.map(node => node.role), ['master', 'master', 'master', 'replica', 'replica', 'replica'])

  const client = new Cluster(cluster.startupNodes, { clusterRetryStrategy: () => 50 })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  const keys = Array.from({ length: 100 }, (_, i) => `key:${i}`)
  await Promise.all(keys.map(key => client.set(key, key)))
  const owners = new Set(await Promise.all(keys.map(key => cluster.masterOf(key))))
  t.same([...owners].map(node => node.role), ['master', 'master', 'master'])
  const old = await cluster.masterOf('key:1')
  t.equal(await old.server.client().get('key:1'), 'key:1', 'masterOf names the node that has the key')

  await old.server.kill()
  await until('the replica is the master', async () => (await cluster.masterOf('key:1')).role === 'replica', 20_000)
  t.equal(await client.get('key:1'), 'key:1')
  await cluster.stop()
  nothingLeft(t, cluster.nodes.map(node => node.server))
})

t.test('sentinels lead a client to the master, before and after a failover and when the master was killed', async t => {
  const started = Date.now()
  const sentinel = await startSentinel()
  t.comment(`started in ${Date.now() - started} ms`)
  const client = new Redis({
    sentinels: sentinel.sentinels.map(({ host, port }) => ({ host, port })),
    name: sentinel.name,
    sentinelRetryStrategy: () => 50,
    retryStrategy: () => 50,
    maxRetriesPerRequest: null
  })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  const isOnMaster = async () => (await client.info('server')).includes(`process_id:${(await sentinel.master()).pid}\r`)
  t.ok(await isOnMaster())
  t.equal((await sentinel.replicas()).length, 2)

  const first = await sentinel.master()
  const second = await sentinel.failover()
  t.not(second, first)
  t.equal(second, await sentinel.master())
  t.ok((await sentinel.replicas()).includes(first))
  await until('the client is on the new master', isOnMaster)

  await second.kill()
  await until('a replica is the master', async () => await sentinel.master() !== second, 20_000)
  await until('the client is on the next master', isOnMaster)
  await sentinel.stop()
  nothingLeft(t, [...sentinel.servers, ...sentinel.sentinels.map(({ server }) => server)])
})

for (const [death, signal] of [['an error', 'SIGTERM'], ['SIGKILL', 'SIGKILL']] as const) {
  t.test(`the servers and folders of a process that dies of ${death} are removed`, async t => {
    const script = spawn(process.execPath, ['--import', 'tsx', 'test/helpers/fixtures/leave-running.ts'], {
      stdio: ['ignore', 'pipe', 'ignore']
    })
    const exited = once(script, 'exit')
    const [line] = await once(script.stdout, 'data') as [Buffer]
    const { port, dir } = JSON.parse(line.toString()) as { port: number, dir: string }
    t.ok(await isListening(port))
    script.kill(signal)
    await exited
    await until('the server is gone', async () => !await isListening(port))
    await until('its folder is gone', () => !existsSync(dir))
  })
}

t.test('the installer does nothing where a server is on the PATH, and otherwise reports in one line what is missing', async t => {
  const install = (env: NodeJS.ProcessEnv) => spawnSync(process.execPath, ['--import', 'tsx', 'tools/servers/install-redis.ts'], {
    env: { ...process.env, ...env },
    encoding: 'utf8'
  })
  t.match(install({}), { status: 0, stdout: '', stderr: '' })
  t.match(install({ REDIS_SERVER: '/no/such/file' }), { status: 1, stderr: /^REDIS_SERVER=.* is not an executable file\.\n$/ })
  t.match(install({ REDIS_SERVER: '', PATH: '/no/such/folder' }), { status: 1, stderr: /^.*need redis-server.*\n$/ })
})
