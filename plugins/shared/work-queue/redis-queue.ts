import type { Clock } from '../plugin/clock.js'
import type { Milliseconds } from '../plugin/units.js'
import type { RedisPort } from '../redis/port.js'
import { sendScript, sendScriptForBytes, type Script } from '../redis/script.js'
import { acquireScript, heartbeatScript, renewScript } from './lease-scripts.js'
import { deadLetterScript, discardScript } from './dead-letter-scripts.js'
import { ackScript, markScript } from './queue-scripts.js'
import type { InstanceRegistry, PartitionQueue, QueueSource, StoredDeadLetter, StoredMessage } from './queue.js'
import { idAfter } from './stream-ids.js'

/** Access to Redis for a queue. */
export interface QueueRedis {
  client: RedisPort
  /** Calls Redis by the policy on failure. */
  run: <R>(operation: () => Promise<R>) => Promise<R>
  /** The time of scripts. */
  clock: Clock
}

interface RedisQueueOptions {
  /** The consumer group of all sources. */
  group: string
  /**
   * In the order in which they are taken from. An empty stream is kept for `emptyTtl`; without one, acknowledged
   * messages stay in it.
   */
  sources: ReadonlyArray<{ name: QueueSource, key: string, emptyTtl?: Milliseconds }>
  /** `extra` is the queue's own, for its scripts. */
  keys: { owner: string, fence: string, dead: string, extra?: string }
  scripts: { pending: Script, replay: Script }
  /** Takes messages. KEYS are the owner and `keys`, ARGV the token, the group, how many, and `args`. */
  take: { script: Script, keys: readonly string[], args: ReadonlyArray<string | number> }
  /** The stream that replayed messages are added to, its maximum length, and three arguments of the queue's own. */
  replay: { target: string, maxLength: number, args: readonly [string | number, string, string] }
  maxDeadLetters: number
  /** @default never */
  deadLetterTtl?: Milliseconds
}

/** Lua can unpack some thousands of arguments. */
const MAX_ACKED = 1000

/**
 * Returns a partition in Redis: each source is a stream with a consumer group. All keys lie in one slot of a Cluster.
 */
export function createRedisQueue ({ client, run, clock }: QueueRedis, options: RedisQueueOptions): PartitionQueue {
  const { group, sources, keys: { owner, fence, dead, extra }, scripts, take, replay, maxDeadLetters } = options
  const { deadLetterTtl = '' } = options
  type Args = ReadonlyArray<string | number | Buffer>
  const call = (script: Script, keys: readonly string[], args: Args, runs = sendScript) =>
    run(() => runs(client, script, keys, args, clock))
  const streamOf = (source: QueueSource) => sources.find(({ name }) => name === source)?.key ?? ''

  return {
    async acquire (token, ms) {
      const reply = await call(acquireScript, [owner, fence], [token, ms])
      return reply === null ? undefined : Number(reply)
    },
    renew: async (token, ms) => await call(renewScript, [owner], [token, ms]) === 1,
    async release (token) { await call(renewScript, [owner], [token, 0]) },

    async pending (token, after, count) {
      // A cursor is the index of a source, and the last id that was looked at there.
      const [index = '0', last] = after?.split(' ') ?? []
      const { name: source = 'log', key = '' } = sources[Number(index)] ?? {}
      const keys = extra === undefined ? [owner, key] : [owner, key, extra]
      const args = [token, group, last === undefined ? '-' : idAfter(last), count]
      const reply = await call(scripts.pending, keys, args, sendScriptForBytes)
      if (reply === null) return undefined
      const [end, ...found] = listOf(reply)
      const messages = found.map(listOf).map(([id, fields, count]) => takenOf(source, id, fields, Number(count)))
      if (String(end) !== '') return { messages, next: `${index} ${end}` }
      return { messages, next: Number(index) + 1 < sources.length ? String(Number(index) + 1) : undefined }
    },
    async take (token, count) {
      const args = [token, group, count, ...take.args]
      const reply = await call(take.script, [owner, ...take.keys], args, sendScriptForBytes)
      if (reply === null) return undefined
      const entries = listOf(reply).map(listOf)
      return entries.map(([source, id, fields]) => takenOf(String(source) === 'log' ? 'log' : 'again', id, fields, 0))
    },
    mark: async (token, { source, entryId }, deliveryCount) =>
      await call(markScript, [owner, streamOf(source)], [token, group, entryId, deliveryCount]) === 1,
    async ack (token, messages) {
      for (const { name, key, emptyTtl = '' } of sources) {
        const ids = messages.filter(({ source }) => source === name).map(({ entryId }) => entryId)
        for (let at = 0; at < ids.length; at += MAX_ACKED) {
          const args = [token, group, emptyTtl, ...ids.slice(at, at + MAX_ACKED)]
          if (await call(ackScript, [owner, key], args) !== 1) return false
        }
      }
      return true
    },
    async deadLetter (token, { source, entryId, id, n, key, value }, reason, deliveryCount) {
      const { emptyTtl = '' } = sources.find(({ name }) => name === source) ?? {}
      const fields = [...Number.isNaN(n) ? [] : ['n', n], ...key === undefined ? [] : ['k', key], 'v', value, 'id', id]
      const death = ['reason', reason, 'given', deliveryCount]
      const args = [token, group, emptyTtl, entryId, maxDeadLetters, deadLetterTtl, ...fields, ...death]
      const dropped = await call(deadLetterScript, [owner, streamOf(source), dead], args)
      return dropped === null ? undefined : Number(dropped)
    },

    async deadLetters (from, count) {
      const entries = await run(() =>
        client.send<Array<[Buffer, Buffer[]]>>('xrange', [dead, from, '+', 'COUNT', count], true))
      return entries.map(deadLetterOf)
    },
    deadLetterCount: () => run(() => client.send<number>('xlen', [dead])),
    replay: async ids =>
      Number(await call(scripts.replay, [replay.target, dead], [replay.maxLength, ...replay.args, ...ids])),
    discard: async ids => Number(await call(discardScript, [dead], ids))
  }
}

/** Returns a registry of instances in a sorted set. */
export function createRedisRegistry ({ client, run, clock }: QueueRedis, key: string): InstanceRegistry {
  return {
    heartbeat: async (instance, ms) =>
      Number(await run(() => sendScript(client, heartbeatScript, [key], [instance, ms], clock))),
    async deregister (instance) { await run(() => client.send('zrem', [key, instance])) }
  }
}

export function listOf (reply: unknown): unknown[] {
  return Array.isArray(reply) ? reply : []
}

/** Returns a reply of alternating names and values as a map. */
export function mapOf (reply: unknown): Map<string, unknown> {
  const list = listOf(reply)
  return new Map(list.flatMap((name, i) => i % 2 === 0 ? [[String(name), list[i + 1]] as const] : []))
}

export function messageOf (id: unknown, fields: unknown): StoredMessage {
  const map = mapOf(fields)
  const [key, value] = [map.get('k'), map.get('v')]
  return {
    id: String(map.get('id') ?? id),
    n: Number(map.get('n')),
    key: key === undefined ? undefined : String(key),
    value: Buffer.isBuffer(value) ? value : Buffer.alloc(0)
  }
}

function takenOf (source: QueueSource, id: unknown, fields: unknown, deliveryCount: number) {
  return { ...messageOf(id, fields), source, entryId: String(id), deliveryCount }
}

function deadLetterOf ([id, fields]: [Buffer, Buffer[]]): StoredDeadLetter {
  const map = mapOf(fields)
  const message = messageOf(id, fields)
  const [reason, deliveryCount] = [String(map.get('reason')), Number(map.get('given'))]
  return { ...message, id: String(id), messageId: message.id, reason, deliveryCount }
}
