// The faults of Redis, or of an instance, and how they end.
import type { RedisPluginOptions } from '../../plugins/redis/index.js'
import { startProxy, type Proxy } from '../../tools/servers/proxy.js'
import { startCluster, type ClusterNode, type RedisCluster } from '../helpers/servers/redis-cluster.js'
import { startSentinel } from '../helpers/servers/redis-sentinel.js'
import { startRedis, type RedisServer } from '../helpers/servers/redis-server.js'
import { until } from '../helpers/app/until.js'
import type { Shop } from './shop.js'

/** The servers that the instances connect to. */
export interface Place {
  connection: RedisPluginOptions
  servers: RedisServer[]
  begin (shop: Shop): unknown
  /** Resolves when the fault is over: recovery is timed from then on. */
  end (shop: Shop): unknown
}

export interface Fault {
  name: string
  /** In the words of the report. */
  what: string
  open (): Promise<Place>
  /** Redis was available all the time: limits must hold during the fault as well. */
  isReachable?: true
  /** Redis loses all data: no user stays logged in. */
  losesData?: true
  /** Redis is slow rather than unavailable: its round trips are added to each response. In ms. */
  adds?: number
  /** Replies are delayed by this much, so that only routes that need Redis wait for them. In ms. */
  lateMs?: number
  /** The fault has its own duration: it lasts until `end` resolves. */
  endsItself?: true
}

const PASSWORD = 'the first password'

type OnServer = (server: RedisServer, shop: Shop) => unknown

function onServer (begin: OnServer, end: OnServer): Fault['open'] {
  return async () => {
    const server = await startRedis({ password: PASSWORD })
    return { connection: { url: server.url }, servers: [server], begin: shop => begin(server, shop), end: shop => end(server, shop) }
  }
}

function onProxy (begin: (proxy: Proxy) => unknown, end: (proxy: Proxy) => unknown): Fault['open'] {
  return async () => {
    const server = await startRedis()
    const proxy = await startProxy(server.port)
    return { connection: { host: proxy.host, port: proxy.port }, servers: [server], begin: () => begin(proxy), end: () => end(proxy) }
  }
}

function onCluster (begin: (cluster: RedisCluster) => unknown, end: (cluster: RedisCluster) => unknown): Fault['open'] {
  return async () => {
    const cluster = await startCluster()
    return {
      connection: { cluster: { nodes: cluster.startupNodes } },
      servers: cluster.nodes.map(({ server }) => server),
      begin: () => begin(cluster),
      end: () => end(cluster)
    }
  }
}

async function openSentinel (): Promise<Place> {
  const set = await startSentinel()
  let old: RedisServer
  return {
    connection: { sentinels: set.sentinels.map(({ host, port }) => ({ host, port })), name: set.name },
    servers: set.servers,
    async begin () {
      old = await set.master()
      await old.kill()
    },
    end: () => until('there is another master', async () => {
      const master = await set.master()
      return master !== old && (await master.client().info('replication')).includes('role:master')
    }, 20_000)
  }
}

/** Repeatedly. */
function repeated (action: (server: RedisServer) => Promise<unknown>): Fault['open'] {
  let timer: NodeJS.Timeout
  return onServer(server => { timer = setInterval(() => { action(server).catch(() => {}) }, 250) }, () => clearInterval(timer))
}

async function changePassword (server: RedisServer, password: string): Promise<void> {
  await server.client().config('SET', 'requirepass', password)
  await server.client().call('CLIENT', 'KILL', 'TYPE', 'normal')
}

const slow = (ms: number): Fault => ({
  name: `slow ${ms} ms`,
  what: `each reply of Redis takes ${ms} ms more`,
  open: onProxy(proxy => proxy.delay(ms), proxy => proxy.delay(0)),
  ...ms < 100 && {
    isReachable: true,
    adds: ms
  },
  ...ms >= 100 && ms < 1000 && { lateMs: ms }
})

/** Moves slots with keys from the first master to the second, while both receive commands for them. */
async function moveSlots ({ nodes: [from, to] }: RedisCluster): Promise<void> {
  if (!from || !to) return
  const call = async (node: ClusterNode, ...args: Array<string | number>) => await node.server.client().call(...args.map(String) as [string])
  const [fromId, toId] = [String(await call(from, 'CLUSTER', 'MYID')), String(await call(to, 'CLUSTER', 'MYID'))]
  const [, keys] = await from.server.client().scan(0, 'COUNT', 200)
  const slots = new Set(await Promise.all(keys.map(async key => Number(await call(from, 'CLUSTER', 'KEYSLOT', key)))))
  for (const slot of [...slots].slice(0, 20)) {
    await call(to, 'CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId)
    await call(from, 'CLUSTER', 'SETSLOT', slot, 'MIGRATING', toId)
    for (;;) {
      const moving = await call(from, 'CLUSTER', 'GETKEYSINSLOT', slot, 100) as string[]
      if (moving.length === 0) break
      await call(from, 'MIGRATE', to.host, to.port, '', 0, 1000, 'KEYS', ...moving)
    }
    for (const node of [to, from]) await call(node, 'CLUSTER', 'SETSLOT', slot, 'NODE', toId)
  }
}

export const FAULTS: readonly Fault[] = [
  { name: 'killed', what: 'SIGKILL; later it is started again, empty', open: onServer(server => server.kill(), server => server.restart()), losesData: true },
  { name: 'restarted empty', what: 'SIGKILL, and started again at once, empty', open: onServer(server => server.restart(), () => {}), losesData: true },
  { name: 'hung', what: 'SIGSTOP', open: onServer(server => server.pause(), server => server.resume()) },
  ...[50, 500, 2000].map(slow),
  { name: 'severed', what: 'all connections are reset, and new ones at once', open: openSevered },
  { name: 'flapping', what: 'all connections are reset every 5 ms', open: openFlapping },
  { name: 'half-open', what: 'connections stand and nothing passes', open: onProxy(proxy => proxy.blackhole(true), proxy => proxy.blackhole(false)) },
  {
    name: 'full',
    what: '`maxmemory` reached, `noeviction`',
    open: onServer(server => server.client().config('SET', 'maxmemory', '1'), server => server.client().config('SET', 'maxmemory', '0'))
  },
  { name: 'read-only', what: '`REPLICAOF` a server that is not there', open: onServer(server => server.client().replicaof('127.0.0.1', 1), server => server.client().call('REPLICAOF', 'NO', 'ONE')) },
  { name: 'scripts flushed', what: '`SCRIPT FLUSH`, four times a second', open: repeated(server => server.client().script('FLUSH')), isReachable: true },
  { name: 'clients killed', what: '`CLIENT KILL TYPE normal`, four times a second', open: repeated(server => server.client().call('CLIENT', 'KILL', 'TYPE', 'normal')) },
  {
    name: 'password changed',
    what: 'the password is another one and all clients are cut off; later it is the first one again',
    open: onServer(server => changePassword(server, 'another'), server => server.client().config('SET', 'requirepass', PASSWORD))
  },
  {
    name: 'instance killed',
    what: 'one app instance gets SIGKILL, while it holds a lock, a refresh and leases, and is started again later; Redis works',
    open: onServer((_, shop) => shop.instances[0]!.kill(), (_, shop) => shop.instances[0]!.start()),
    isReachable: true
  },
  {
    name: 'cluster: master killed',
    what: 'one master of three; it is over when its replica has taken its place',
    open: onCluster(({ nodes }) => nodes[0]!.server.kill(), cluster => until('its replica is master', async () => {
      const info = String(await cluster.nodes[1]!.server.client().call('CLUSTER', 'INFO'))
      const replication = await cluster.nodes[3]!.server.client().info('replication')
      return info.includes('cluster_state:ok') && replication.includes('role:master')
    }, 20_000)),
    endsItself: true
  },
  {
    name: 'cluster: majority lost',
    what: 'two masters of three hang: the cluster serves nothing',
    open: onCluster(({ nodes }) => { for (const { server } of nodes.slice(0, 2)) server.pause() }, async ({ nodes }) => {
      for (const { server } of nodes.slice(0, 2)) server.resume()
      await until('the cluster serves', async () => (await Promise.all(nodes.map(({ server }) => server.client().call('CLUSTER', 'INFO')))).every(info => String(info).includes('cluster_state:ok')), 20_000)
    })
  },
  { name: 'cluster: slots moved', what: 'slots that are in use move to another master', open: onCluster(moveSlots, () => {}), isReachable: true },
  { name: 'sentinel: failover', what: 'the master is killed; it is over when the sentinels have another', open: openSentinel, endsItself: true }
]

async function openSevered (): Promise<Place> {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  return {
    connection: { host: proxy.host, port: proxy.port },
    servers: [server],
    begin () {
      // A port that no server listens on.
      proxy.target(1)
      proxy.sever()
    },
    end: () => proxy.target(server.port)
  }
}

/** Connections last for a few commands only. */
async function openFlapping (): Promise<Place> {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  let timer: NodeJS.Timeout
  return {
    connection: { host: proxy.host, port: proxy.port },
    servers: [server],
    begin: () => { timer = setInterval(() => proxy.sever(), 5) },
    end: () => clearInterval(timer)
  }
}
