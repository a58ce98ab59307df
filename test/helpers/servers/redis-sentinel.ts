import type { RedisServer, RedisServerOptions } from './redis-server.js'
import { startOnFreePort } from '../../../tools/servers/start-on-free-port.js'
import { quote, startRedis } from './redis-server.js'
import { until } from '../app/until.js'

const NAME = 'mymaster'
const REPLICAS = 2
const SENTINELS = 3
const QUORUM = 2

export interface SentinelNode {
  host: string
  port: number
  server: RedisServer
}

export interface RedisSentinel {
  name: string
  sentinels: SentinelNode[]
  /** The first master, then its two replicas. */
  servers: RedisServer[]
  /** The present roles, according to the sentinels. */
  master (): Promise<RedisServer>
  replicas (): Promise<RedisServer[]>
  /** Triggers a failover; resolves to the new master when all sentinels know it and all other servers follow it. */
  failover (): Promise<RedisServer>
  stop (): Promise<void>
}

export interface RedisSentinelOptions extends Omit<RedisServerOptions, 'port' | 'tls'> {
  /** The milliseconds of silence after which a master is failed over. */
  downAfter?: number
}

/** A master, two replicas and three sentinels; resolves when each sentinel knows all of them. */
export async function startSentinel (options: RedisSentinelOptions = {}): Promise<RedisSentinel> {
  const started: RedisServer[] = []
  const stop = async () => { await Promise.all(started.map(server => server.stop())) }
  const keep = (server: RedisServer) => {
    started.push(server)
    return server
  }
  try {
    const servers = await startServers(options, keep)
    const sentinels = await startSentinels(options, servers[0]!, keep)
    return face(servers, sentinels, stop)
  } catch (error) {
    await stop()
    throw error
  }
}

function face (servers: RedisServer[], sentinels: RedisServer[], stop: () => Promise<void>): RedisSentinel {
  const master = async () => await masterOf(servers, sentinels)
  return {
    name: NAME,
    sentinels: sentinels.map(server => ({ host: server.host, port: server.port, server })),
    servers,
    master,
    replicas: async () => {
      const current = await master()
      return servers.filter(server => server !== current)
    },
    failover: async () => await failover(servers, sentinels),
    stop
  }
}

type Keep = (server: RedisServer) => RedisServer

// The replicas follow before a sentinel starts: it asks the master for them at once, then only seconds later.
async function startServers ({ downAfter, ...options }: RedisSentinelOptions, keep: Keep): Promise<RedisServer[]> {
  const master = keep(await startRedis(options))
  const replicas: RedisServer[] = []
  for (let i = 0; i < REPLICAS; i++) {
    const replica = keep(await startRedis(options))
    await replica.client().replicaof(master.host, master.port)
    // Written to its file, as sentinels do: a restart follows the same master.
    await replica.client().config('REWRITE')
    replicas.push(replica)
  }
  await until('the replicas follow the master', async () => await hasReplicas(master, REPLICAS))
  return [master, ...replicas]
}

async function startSentinels (options: RedisSentinelOptions, master: RedisServer, keep: Keep): Promise<RedisServer[]> {
  const sentinels: RedisServer[] = []
  for (let i = 0; i < SENTINELS; i++) {
    const sentinel = keep(await startOnFreePort(undefined, (port, dir) => ({
      port,
      dir,
      config: configOf(port, options, master),
      args: ['--sentinel']
    })))
    await hurry(sentinel)
    sentinels.push(sentinel)
  }
  const all = `status=ok,address=${master.host}:${master.port},slaves=${REPLICAS},sentinels=${SENTINELS}`
  await until('the sentinels know each other and the replicas', async () => {
    const infos = await Promise.all(sentinels.map(sentinel => sentinel.client().info('sentinel')))
    return infos.every(info => info.includes(all))
  })
  return sentinels
}

function configOf (port: number, { downAfter = 1000, password }: RedisSentinelOptions, master: RedisServer): string[] {
  return [
    'bind 127.0.0.1',
    `port ${port}`,
    `sentinel monitor ${NAME} ${master.host} ${master.port} ${QUORUM}`,
    `sentinel down-after-milliseconds ${NAME} ${downAfter}`,
    `sentinel failover-timeout ${NAME} 3000`,
    ...password ? [`sentinel auth-pass ${NAME} ${quote(password)}`] : []
  ]
}

// Sentinels greet each other every 2 s, ask servers every 10 s, and wait for 30 s of TILT when the machine was busy. Redis before 7 has no
// setting for that: it works, but more slowly. Four publish periods must be well over 1 s: after that a sentinel demotes a replica that calls
// itself master, and the leader of the failover checks the replica that it promotes once a second.
async function hurry (sentinel: RedisServer): Promise<void> {
  const periods = ['publish-period', 500, 'info-period', 500, 'ping-period', 200, 'ask-period', 200, 'tilt-period', 1000]
  await sentinel.client().call('SENTINEL', 'DEBUG', ...periods.map(String)).catch(() => {})
}

async function masterOf (servers: RedisServer[], sentinels: RedisServer[]): Promise<RedisServer> {
  const asked = sentinels.find(sentinel => sentinel.answers)
  if (!asked) throw new Error('No sentinel is up')
  const port = await masterPort(asked)
  const master = servers.find(server => server.port === port)
  if (!master) throw new Error(`The sentinels name a master that is not ours, on port ${port}`)
  return master
}

async function masterPort (sentinel: RedisServer): Promise<number> {
  const [, port] = await sentinel.client().call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', NAME) as [string, string]
  return Number(port)
}

async function failover (servers: RedisServer[], sentinels: RedisServer[]): Promise<RedisServer> {
  const up = sentinels.filter(sentinel => sentinel.answers)
  const old = await masterOf(servers, up)
  await until('the sentinels agree on a new master', async () => {
    const ports = await Promise.all(up.map(masterPort))
    // Refused during a failover, or if the replicas have not responded lately; a failover may also be aborted.
    if (ports[0] === old.port) await up[0]!.client().call('SENTINEL', 'FAILOVER', NAME).catch(() => {})
    return ports.every(port => port === ports[0] && port !== old.port)
  }, 20_000)
  const master = await masterOf(servers, up)
  const others = servers.filter(server => server.answers && server !== master).length
  await until('all others follow the new master', async () => await hasReplicas(master, others), 20_000)
  return master
}

async function hasReplicas (master: RedisServer, count: number): Promise<boolean> {
  const info = await master.client().info('replication')
  return info.includes('role:master') && (info.match(/state=online/g) ?? []).length === count
}
