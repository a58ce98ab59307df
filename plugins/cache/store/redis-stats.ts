import type { RedisClient } from '../../shared/redis/client.js'
import { infoOf, mastersOf } from '../../shared/redis/info.js'

/** What a store says of itself. Redis's figures are those of the whole server, whoever uses it; of a Cluster, of all masters. */
export interface StoreStats {
  kind: 'redis' | 'memory'
  /** Keys in the database, or entries in memory. */
  entries: number
  /** Bytes. */
  usedMemory: number
  /** Bytes; 0: no limit. */
  maxMemory: number
  /** What is done when it is full. */
  policy: string
  /** Look-ups of keys, whether there was one; NaN where nothing was looked up. */
  hitRatio: number
  /** Keys that went for want of room, and by the end of their TTL, since the server started. */
  evicted: number
  expired: number
}

export async function redisStats (client: RedisClient): Promise<StoreStats> {
  const infos = await Promise.all(mastersOf(client).map(async node => {
    const [info, size] = await Promise.all([infoOf(node, 'memory', 'stats'), node.dbsize()])
    return new Map(info).set('size', String(size))
  }))
  const sum = (field: string): number => infos.reduce((total, info) => total + (Number(info.get(field)) || 0), 0)
  const hits = sum('keyspace_hits')
  return {
    kind: 'redis',
    entries: sum('size'),
    usedMemory: sum('used_memory'),
    maxMemory: sum('maxmemory'),
    policy: infos[0]?.get('maxmemory_policy') ?? 'unknown',
    hitRatio: hits / (hits + sum('keyspace_misses')),
    evicted: sum('evicted_keys'),
    expired: sum('expired_keys')
  }
}
