import type { RedisNode, RedisPort } from './port.js'

/** Returns the masters of a Cluster, or the single node. */
export function mastersOf (client: RedisPort): RedisNode[] {
  return client.topology?.masters() ?? [client]
}

/** Returns the fields of a server's `INFO`. */
export async function infoOf (node: RedisNode, ...sections: string[]): Promise<ReadonlyMap<string, string>> {
  // Several sections in one command need Redis 7.
  const texts = await Promise.all(sections.map(async section => await node.send<string>('info', [section])))
  const fields = texts.join('\n').split(/\r?\n/).filter(line => line.includes(':'))
  return new Map(fields.map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]))
}

/** Returns the reply of `TIME` in milliseconds since the epoch. */
export function timeOf ([seconds, microseconds]: ReadonlyArray<number | string>): number {
  return Number(seconds) * 1000 + Number(microseconds) / 1000
}
