import type { Redis } from 'ioredis'
import { isCluster, type RedisClient } from './client.js'

/** The masters that hold the data: of a single node itself. */
export function mastersOf (client: RedisClient): Redis[] {
  return isCluster(client) ? client.nodes('master') : [client]
}

/** What a server says of itself (`INFO`), field by field. */
export async function infoOf (node: Redis, ...sections: string[]): Promise<ReadonlyMap<string, string>> {
  // Several sections at once are understood since Redis 7 only.
  const texts = await Promise.all(sections.map(async section => await node.info(section)))
  const fields = texts.join('\n').split(/\r?\n/).filter(line => line.includes(':'))
  return new Map(fields.map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]))
}
