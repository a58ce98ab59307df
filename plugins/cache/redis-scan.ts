import type { Redis } from 'ioredis'
import type { RedisClient } from '../shared/client.js'
import { mastersOf } from '../shared/info.js'
import { parseJson } from './json.js'

const BATCH = 500
// Enough of an entry for its label, which comes first and is short nearly always.
const HEAD_BYTES = 4096
const LABEL = /"label":("(?:[^"\\]|\\.)*")/

/**
 * Looks at all entries, in batches, on every master, and removes those whose label passes. Redis is never blocked for
 * longer than a batch takes.
 *
 * @returns how many there were
 */
export async function removeByLabel (client: RedisClient, keySpace: string, matches: (label: string) => boolean): Promise<number> {
  const removed = await Promise.all(mastersOf(client).map(async node => await removeOn(node, keySpace, matches)))
  return removed.reduce((sum, count) => sum + count, 0)
}

async function removeOn (node: Redis, keySpace: string, matches: (label: string) => boolean): Promise<number> {
  const { keyPrefix = '' } = node.options
  let removed = 0
  let cursor = '0'
  do {
    // The prefix holds no pattern characters; MATCH alone is not given the client's own.
    const [next, found] = await node.scan(cursor, 'MATCH', `${keyPrefix}${keySpace}*`, 'COUNT', BATCH)
    cursor = next
    const keys = found.map(key => key.slice(keyPrefix.length))
    const labels = await Promise.all(keys.map(async key => await readLabel(node, key)))
    // Without one it is no entry: what was removed before, or damaged.
    const unwanted = keys.filter((_, i) => labels[i] !== undefined && matches(labels[i]))
    // One key a command: in a Cluster they lie in several slots.
    const counts = await Promise.all(unwanted.map(key => node.unlink(key)))
    for (const count of counts) removed += count
  } while (cursor !== '0')
  return removed
}

async function readLabel (node: Redis, key: string): Promise<string | undefined> {
  const head = await node.getrangeBuffer(key, 0, HEAD_BYTES - 1)
  const label = labelOf(head)
  return label === undefined && head.length === HEAD_BYTES ? labelOf(await node.getBuffer(key) ?? undefined) : label
}

function labelOf (head: Buffer | undefined): string | undefined {
  const text = LABEL.exec(head?.toString('utf8') ?? '')?.[1]
  const label = text === undefined ? undefined : parseJson(text)
  return typeof label === 'string' ? label : undefined
}
