import type { RedisNode, RedisPort } from '../shared/redis/port.js'
import type { Clock } from '../shared/plugin/clock.js'
import type { Seconds } from '../shared/plugin/units.js'
import { circuitOf } from '../shared/redis/guard.js'
import { infoOf, mastersOf } from '../shared/redis/info.js'
import type { Check } from './checks.js'
import { measurements, type HealthStatus, type Measurement } from './measurement.js'

type Info = ReadonlyMap<string, string>

/** The part of `maxmemory` above which the server is about to refuse writes or to evict keys. */
const NEARLY_FULL = 0.9
/** After this time without data from its master, a replica counts as disconnected. */
const MAX_SILENCE: Seconds = 10
const SLOTS = 16_384

/**
 * Creates a check that sends a PING, unless the circuit is open: its own probes find out when Redis is available again.
 * The state of the server is added if INFO is allowed.
 */
export function createRedisCheck (client: RedisPort, clock: Clock): Check {
  return async () => {
    const circuit = circuitOf(client.client)
    if (circuit?.state === 'open') throw new Error(`circuit open: ${circuit.lastError?.message ?? 'unknown'}`)
    if (client.status !== 'ready') throw new Error(`the connection is not ready (state "${client.status}")`)
    const startedAt = clock.monotonic()
    await client.send('ping', [])
    const responseTime = Math.round((clock.monotonic() - startedAt) * 100) / 100
    const nodes = mastersOf(client)
    // The user may lack the permission for INFO. The PING has shown that the server replies.
    const infos = await Promise.all(
      nodes.map(node => infoOf(node, 'replication', 'memory', 'stats', 'clients').catch((): Info => new Map()))
    )
    return measurements({
      responseTime: { observedValue: responseTime, observedUnit: 'ms', componentType: 'datastore' },
      circuit: {
        observedValue: circuit?.state ?? 'closed',
        componentType: 'datastore',
        ...circuit?.state === 'late' && warning('replies are late')
      },
      ...infos.some(info => info.size > 0) && { ...serverState(infos), ...replicationState(infos) },
      ...client.topology !== undefined && await clusterState(nodes[0])
    })
  }
}

function serverState (infos: readonly Info[]): Record<string, Measurement> {
  const sum = (field: string): number => infos.reduce((total, info) => total + (Number(info.get(field)) || 0), 0)
  const hits = sum('keyspace_hits')
  const lookups = hits + sum('keyspace_misses')
  const used = Math.max(
    ...infos.map(info =>
      Number(info.get('maxmemory')) > 0 ? Number(info.get('used_memory')) / Number(info.get('maxmemory')) : 0)
  )
  return {
    connectedClients: observed(sum('connected_clients')),
    usedMemory: observed(sum('used_memory'), 'bytes'),
    memoryUtilization: {
      ...observed(Math.round(used * 1000) / 10, 'percent'),
      ...used >= NEARLY_FULL && warning(`nearly full; the policy is ${infos[0]?.get('maxmemory_policy') ?? 'unknown'}`)
    },
    maxMemoryPolicy: observed(infos[0]?.get('maxmemory_policy') ?? 'unknown'),
    evictedKeys: observed(sum('evicted_keys'), 'keys'),
    hitRatio: observed(lookups === 0 ? null : Math.round(hits / lookups * 1000) / 10, 'percent')
  }
}

function replicationState (infos: readonly Info[]): Record<string, Measurement> {
  const roles = new Set(infos.map(info => info.get('role')))
  const offsetsOf = (info: Info) =>
    [...info].filter(([name]) => /^slave\d+$/.test(name)).map(([, text]) => Number(/offset=(\d+)/.exec(text)?.[1] ?? 0))
  const lags = infos.flatMap(info =>
    offsetsOf(info).map(offset => Math.max(0, Number(info.get('master_repl_offset')) - offset)))
  const isBroken = infos.some(info =>
    info.get('master_link_status') === 'down' || Number(info.get('master_last_io_seconds_ago')) > MAX_SILENCE)
  return {
    role: {
      ...observed([...roles].join()),
      ...roles.has('slave') &&
        warning(isBroken ? 'a replica that is disconnected from its master' : 'a replica, which accepts no writes')
    },
    replicas: observed(lags.length),
    ...lags.length > 0 && { replicationLag: observed(Math.max(...lags), 'bytes') }
  }
}

async function clusterState (node: RedisNode | undefined): Promise<Record<string, Measurement>> {
  const text = String(await node?.send('cluster', ['INFO']).catch(() => ''))
  const valueOf = (field: string) => new RegExp(`^${field}:(.*?)\\r?$`, 'm').exec(text)?.[1]
  const state = valueOf('cluster_state')
  if (state === undefined) return {}
  const slots = Number(valueOf('cluster_slots_ok'))
  return {
    clusterState: {
      ...observed(state),
      ...state !== 'ok' && { status: 'fail' as HealthStatus, output: 'the cluster does not serve requests' }
    },
    clusterSlots: { ...observed(slots, 'slots'), ...slots < SLOTS && warning(`${SLOTS - slots} slots are not served`) }
  }
}

function observed (observedValue: unknown, observedUnit?: string): Measurement {
  return { observedValue, ...observedUnit !== undefined && { observedUnit }, componentType: 'datastore' }
}

function warning (output: string): Pick<Measurement, 'status' | 'output'> {
  return { status: 'warn', output }
}
