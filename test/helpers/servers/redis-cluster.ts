import type { RedisServer, RedisServerOptions } from './redis-server.js'
import { startRedis } from './redis-server.js'
import { until } from '../app/until.js'

const MASTERS = 3
const SLOTS = 16_384

export interface ClusterNode {
  host: string
  port: number
  server: RedisServer
  /** The masters at the start; after a failover, use masterOf(). */
  role: 'master' | 'replica'
}

export interface RedisCluster {
  /** Three masters, then the replica of each, in the same order. */
  nodes: ClusterNode[]
  /** For `new Cluster(startupNodes)` of ioredis. */
  startupNodes: { host: string, port: number }[]
  /** The node that serves the key now. */
  masterOf (key: string): Promise<ClusterNode>
  stop (): Promise<void>
}

export interface RedisClusterOptions extends Omit<RedisServerOptions, 'port' | 'tls'> {
  /** The milliseconds of silence after which a master is failed over. */
  nodeTimeout?: number
}

/** Starts 3 masters with a replica each; resolves when every node considers the whole cluster up. */
export async function startCluster (options: RedisClusterOptions = {}): Promise<RedisCluster> {
  const nodes = await startNodes(options)
  const stop = async () => { await Promise.all(nodes.map(node => node.server.stop())) }
  try {
    await form(nodes)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    nodes,
    startupNodes: nodes.map(({ host, port }) => ({ host, port })),
    masterOf: async key => await masterOf(nodes, key),
    stop
  }
}

async function startNodes ({ nodeTimeout = 1500, args = [], ...options }: RedisClusterOptions): Promise<ClusterNode[]> {
  const clusterArgs = [
    '--cluster-enabled', 'yes',
    '--cluster-node-timeout', String(nodeTimeout),
    // A replica starts an election however long its master has been down.
    '--cluster-replica-validity-factor', '0'
  ]
  const starts = Array.from({ length: MASTERS * 2 }, async (_, index): Promise<ClusterNode> => {
    const server = await startRedis({ ...options, args: [...clusterArgs, ...args] })
    return { host: server.host, port: server.port, server, role: index < MASTERS ? 'master' : 'replica' }
  })
  const settled = await Promise.allSettled(starts)
  const nodes = settled.flatMap(start => start.status === 'fulfilled' ? [start.value] : [])
  const failure = settled.find(start => start.status === 'rejected')
  if (failure) {
    await Promise.all(nodes.map(node => node.server.stop()))
    throw failure.reason
  }
  return nodes
}

async function form (nodes: ClusterNode[]): Promise<void> {
  const masters = nodes.slice(0, MASTERS)
  // Every node meets every other one: gossip alone takes seconds.
  await Promise.all(nodes.flatMap(node => nodes
    .filter(other => other !== node)
    .map(other => command(node, 'MEET', other.host, other.port))))
  await Promise.all(masters.map((node, index) => command(node, 'ADDSLOTS', ...slotsOf(index))))
  await Promise.all(masters.map(async (master, index) => await follow(nodes[MASTERS + index]!, master)))
  await Promise.all(nodes.map(async node => await until(`node ${node.port} has the whole cluster up`, () => seesAllUp(node))))
}

function slotsOf (index: number): number[] {
  const first = Math.floor(SLOTS * index / MASTERS)
  const next = Math.floor(SLOTS * (index + 1) / MASTERS)
  return Array.from({ length: next - first }, (_, slot) => first + slot)
}

// Refused until the replica has met its master.
async function follow (replica: ClusterNode, master: ClusterNode): Promise<void> {
  const id = await command(master, 'MYID')
  await until(`node ${replica.port} follows ${master.port}`, async () => await command(replica, 'REPLICATE', String(id)) === 'OK')
}

async function seesAllUp (node: ClusterNode): Promise<boolean> {
  const info = String(await command(node, 'INFO'))
  if (!info.includes('cluster_state:ok') || !info.includes(`cluster_slots_ok:${SLOTS}`)) return false

  const lines = String(await command(node, 'NODES')).trim().split('\n').map(line => line.split(' '))
  const count = (flag: string) => lines.filter(([, , flags]) => flags!.split(',').includes(flag)).length
  const areLinked = lines.every(line => line[7] === 'connected')
  if (lines.length !== MASTERS * 2 || !areLinked || count('master') !== MASTERS || count('slave') !== MASTERS) return false

  const replication = await node.server.client().info('replication')
  return replication.includes('master_link_status:up') || /slave0:.*state=online/.test(replication)
}

async function masterOf (nodes: ClusterNode[], key: string): Promise<ClusterNode> {
  const asked = nodes.find(node => node.server.answers)
  if (!asked) throw new Error('No node of the cluster is up')
  const slot = Number(await command(asked, 'KEYSLOT', key))
  const ranges = await command(asked, 'SLOTS') as [number, number, [string, number]][]
  const range = ranges.find(([first, last]) => first <= slot && slot <= last)
  const master = nodes.find(node => node.port === range?.[2][1])
  if (!master) throw new Error(`No node serves slot ${slot}`)
  return master
}

async function command (node: ClusterNode, ...args: (string | number)[]): Promise<unknown> {
  return await node.server.client().call('CLUSTER', ...args.map(String))
}
