import type { RedisNode, RedisPort } from '../../shared/redis/port.js'
import { isWrongType } from '../../shared/plugin/errors.js'
import { mastersOf } from '../../shared/redis/info.js'
import { META_START, metaEnd, parseJson } from './entry-codec.js'
import { isFlat, readFlatLabel } from './flat-meta.js'
import { createPace, escapeGlob } from './glob.js'

const BATCH = 500
// These bytes contain the label of nearly every entry, as it comes first and is short.
const HEAD_BYTES = 4096
const LABEL = '"label":"'

/**
 * Scans all entries in batches, on every master, and removes those whose label matches. Neither Redis nor this process
 * is blocked for longer than a batch takes. A key of another type is not an entry, and is skipped.
 *
 * @returns the number of removed entries
 */
export async function removeByLabel (
  client: RedisPort, keySpace: string, matches: (label: string) => boolean
): Promise<number> {
  const start = client.keyPrefix + keySpace
  const removed = await Promise.all(mastersOf(client).map(async node => await removeOn(node, start, matches)))
  return removed.reduce((sum, count) => sum + count, 0)
}

async function removeOn (node: RedisNode, start: string, matches: (label: string) => boolean): Promise<number> {
  const pace = createPace()
  let removed = 0
  let cursor = '0'
  do {
    // Redis matches only the key space. MATCH is the one argument to which ioredis does not add the client's key
    // prefix.
    const args = [cursor, 'MATCH', `${escapeGlob(start)}*`, 'COUNT', BATCH]
    const [next, found] = await node.send<[string, string[]]>('scan', args)
    cursor = next
    const keys = found.map(key => key.slice(node.keyPrefix.length))
    const labels = await Promise.all(keys.map(async key => await readLabel(node, key)))
    const unwanted: string[] = []
    for (const [i, key] of keys.entries()) {
      const label = labels[i]
      // Tombstones and damaged entries have no label.
      if (label === undefined) continue
      await pace(label)
      if (matches(label)) unwanted.push(key)
    }
    // One command a key, as the keys lie in several slots of a Cluster.
    const counts = await Promise.all(unwanted.map(key => node.send<number>('unlink', [key])))
    for (const count of counts) removed += count
  } while (cursor !== '0')
  return removed
}

async function readLabel (node: RedisNode, key: string): Promise<string | undefined> {
  const start = await readStart(node, key, HEAD_BYTES)
  const label = labelOf(start)
  if (label !== undefined || start.length < HEAD_BYTES) return label
  return labelOf(await readStart(node, key, metaEnd(start)))
}

async function readStart (node: RedisNode, key: string, bytes: number): Promise<Buffer> {
  try {
    return await node.send<Buffer>('getrange', [key, 0, bytes - 1], true)
  } catch (error) {
    if (isWrongType(error)) return Buffer.alloc(0)
    throw error
  }
}

function labelOf (start: Buffer): string | undefined {
  if (isFlat(start, META_START)) return readFlatLabel(start, META_START, metaEnd(start))
  const text = start.toString('utf8')
  const at = text.indexOf(LABEL)
  if (at === -1) return undefined
  const label = parseJson(text.slice(at + LABEL.length - 1, endOfString(text, at + LABEL.length)))
  return typeof label === 'string' ? label : undefined
}

/**
 * Returns the offset after the closing quote of a JSON string. A regular expression would overflow its stack on a long
 * label.
 */
function endOfString (text: string, from: number): number {
  let at = from
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}
