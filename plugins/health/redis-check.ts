import type { Redis } from 'ioredis'
import { isCluster, type RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { circuitOf } from '../shared/redis/guard.js'
import { infoOf, mastersOf } from '../shared/redis/info.js'
import type { Check } from './checks.js'
import { measurements, type HealthStatus, type Measurement } from './measurement.js'

type Info = ReadonlyMap<string, string>

// From here on a warning is due: the server is about to refuse or evict.
const FULL = 0.9
/** A replica that has not heard of its master for this long. */
const SILENT_SECONDS = 10
const SLOTS = 16_384

/**
 * A PING, unless the circuit has given Redis up already: then its own probing says when that is over. What else the server
 * tells of itself is shown where it may be asked for.
 */
export function createRedisCheck (client: RedisClient, clock: Clock): Check {
  return async () => {
    const circuit = circuitOf(client)
    if (circuit?.state === 'open') throw new Error(`circuit open: ${circuit.lastError?.message ?? 'unknown'}`)
    if (client.status !== 'ready') throw new Error(`the connection is not ready (state "${client.status}")`)
    const began = clock.monotonic()
    await client.ping()
    const responseTime = Math.round((clock.monotonic() - began) * 100) / 100
    const nodes = mastersOf(client)
    // A server may refuse INFO; that it answers is known.
    const infos = await Promise.all(nodes.map(node => infoOf(node, 'replication', 'memory', 'stats', 'clients').catch((): Info => new Map())))
    return measurements({
      responseTime: { observedValue: responseTime, observedUnit: 'ms', componentType: 'datastore' },
      circuit: { observedValue: circuit?.state ?? 'closed', componentType: 'datastore', ...circuit?.state === 'late' && warning('replies are late') },
      ...infos.some(info => info.size > 0) && { ...serverState(infos), ...replicationState(infos) },
      ...isCluster(client) && await clusterState(nodes[0])
    })
  }
}

function serverState (infos: readonly Info[]): Record<string, Measurement> {
  const sum = (field: string): number => infos.reduce((total, info) => total + (Number(info.get(field)) || 0), 0)
  const hits = sum('keyspace_hits')
  const looked = hits + sum('keyspace_misses')
  const used = Math.max(...infos.map(info => Number(info.get('maxmemory')) > 0 ? Number(info.get('used_memory')) / Number(info.get('maxmemory')) : 0))
  return {
    connectedClients: counted(sum('connected_clients')),
    usedMemory: counted(sum('used_memory'), 'bytes'),
    memoryUtilization: {
      ...counted(Math.round(used * 1000) / 10, 'percent'),
      ...used >= FULL && warning(`nearly full; the policy is ${infos[0]?.get('maxmemory_policy') ?? 'unknown'}`)
    },
    maxMemoryPolicy: counted(infos[0]?.get('maxmemory_policy') ?? 'unknown'),
    evictedKeys: counted(sum('evicted_keys'), 'keys'),
    hitRatio: counted(looked === 0 ? null : Math.round(hits / looked * 1000) / 10, 'percent')
  }
}

function replicationState (infos: readonly Info[]): Record<string, Measurement> {
  const roles = new Set(infos.map(info => info.get('role')))
  const offsetsOf = (info: Info) => [...info].filter(([name]) => /^slave\d+$/.test(name)).map(([, text]) => Number(/offset=(\d+)/.exec(text)?.[1] ?? 0))
  const lags = infos.flatMap(info => offsetsOf(info).map(offset => Math.max(0, Number(info.get('master_repl_offset')) - offset)))
  const isBroken = infos.some(info => info.get('master_link_status') === 'down' || Number(info.get('master_last_io_seconds_ago')) > SILENT_SECONDS)
  return {
    role: { ...counted([...roles].join()), ...roles.has('slave') && warning(isBroken ? 'a replica that has lost its master' : 'a replica: it takes no writes') },
    replicas: counted(lags.length),
    ...lags.length > 0 && { replicationLag: counted(Math.max(...lags), 'bytes') }
  }
}

async function clusterState (node: Redis | undefined): Promise<Record<string, Measurement>> {
  const text = String(await node?.cluster('INFO').catch(() => ''))
  const valueOf = (field: string) => new RegExp(`^${field}:(.*?)\\r?$`, 'm').exec(text)?.[1]
  const state = valueOf('cluster_state')
  if (state === undefined) return {}
  const slots = Number(valueOf('cluster_slots_ok'))
  return {
    clusterState: { ...counted(state), ...state !== 'ok' && { status: 'fail' as HealthStatus, output: 'the cluster does not serve' } },
    clusterSlots: { ...counted(slots, 'slots'), ...slots < SLOTS && warning(`${SLOTS - slots} slots are not served`) }
  }
}

function counted (observedValue: unknown, observedUnit?: string): Measurement {
  return { observedValue, ...observedUnit !== undefined && { observedUnit }, componentType: 'datastore' }
}

function warning (output: string): Pick<Measurement, 'status' | 'output'> {
  return { status: 'warn', output }
}
