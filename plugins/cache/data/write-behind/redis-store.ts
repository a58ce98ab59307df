import type { RedisClient } from '../../../shared/redis/client.js'
import { systemClock, type Clock } from '../../../shared/plugin/clock.js'
import { keySpace } from '../../../shared/plugin/keys.js'
import { acquireScript, aliveScript, renewScript } from '../../../shared/work-queue/lease-scripts.js'
import { runScript, runScriptForBytes } from '../../../shared/redis/script.js'
import { idAfter } from '../../../shared/work-queue/stream-ids.js'
import { addScript, deadLetterScript, discardScript, ackScript, markScript, pendingScript, replayScript, stateScript, takeScript } from './scripts.js'
import type { WriteBehindStore, StoredDeadLetter, StoredWrite } from './store.js'

type Run = <T>(operation: () => Promise<T>) => Promise<T>

/**
 * Keeps accepted writes in Redis: each partition is a stream with a consumer group, and what belongs to it lies in one slot
 * of a Cluster. Done writes are deleted, so that the stream is the backlog.
 *
 * @param name - plain characters
 * @param run - calls Redis by the policy on failure
 * @param clock - the time of scripts
 */
export function createRedisWriteBehindStore (client: RedisClient, prefix: string, name: string, run: Run, clock: Clock = systemClock): WriteBehindStore {
  const space = keySpace(prefix, 'cache', 'behind')
  const instances = `${space}{${name}}:instances`
  const key = (partition: number, what: 'stream' | 'owner' | 'fence' | 'dead') => `${space}{${name}.${partition}}:${what}`
  const ofStream = (partition: number) => [key(partition, 'stream'), key(partition, 'owner')]
  const ofLetters = (partition: number) => [key(partition, 'stream'), key(partition, 'dead')]

  return {
    async add (partition, name, value, most) {
      const reply = await run(() => runScript(client, addScript, [key(partition, 'stream')], [name, value, most], clock))
      if (reply === null) return undefined
      const [id, backlog] = listOf(reply)
      return { id: String(id), backlog: Number(backlog) }
    },
    heartbeat: async (instance, ms) => Number(await run(() => runScript(client, aliveScript, [instances], [instance, ms], clock))),
    async deregister (instance) { await run(() => client.zrem(instances, instance)) },

    async acquire (partition, token, ms) {
      const fence = await run(() => runScript(client, acquireScript, [key(partition, 'owner'), key(partition, 'fence')], [token, ms], clock))
      return fence === null ? undefined : Number(fence)
    },
    renew: async (partition, token, ms) => await run(() => runScript(client, renewScript, [key(partition, 'owner')], [token, ms])) === 1,
    async release (partition, token) { await run(() => runScript(client, renewScript, [key(partition, 'owner')], [token, 0])) },

    async pending (partition, token, after, count) {
      const writes: StoredWrite[] = []
      for (let from = after === undefined ? '-' : idAfter(after); writes.length < count;) {
        const reply = await run(() => runScriptForBytes(client, pendingScript, ofStream(partition), [token, from, count]))
        if (reply === null) return undefined
        const [last, ...found] = listOf(reply)
        writes.push(...found.map(writeOf))
        if (String(last) === '') break
        from = idAfter(String(last))
      }
      return writes
    },
    async take (partition, token, count) {
      const reply = await run(() => runScriptForBytes(client, takeScript, ofStream(partition), [token, count]))
      return reply === null ? undefined : listOf(reply).map(writeOf)
    },
    mark: async (partition, token, id, given) => await run(() => runScript(client, markScript, ofStream(partition), [token, id, given])) === 1,
    ack: async (partition, token, ids) => await run(() => runScript(client, ackScript, ofStream(partition), [token, ...ids])) === 1,
    async deadLetter (partition, token, id, { reason, given, covered, most }) {
      const keys = [...ofStream(partition), key(partition, 'dead')]
      const dropped = await run(() => runScript(client, deadLetterScript, keys, [token, id, reason, given, most, ...covered], clock))
      return dropped === null ? undefined : Number(dropped)
    },

    async state (partition) {
      const [backlog, deadLetters, first, last, now] = listOf(await run(() => runScript(client, stateScript, ofLetters(partition), [], clock)))
      return { backlog: Number(backlog), deadLetters: Number(deadLetters), first: String(first) || undefined, last: String(last) || undefined, now: Number(now) }
    },
    async deadLetters (partition, from, count) {
      return (await run(() => client.xrangeBuffer(key(partition, 'dead'), from, '+', 'COUNT', count))).map(deadLetterOf)
    },
    replay: async (partition, ids, most) => Number(await run(() => runScript(client, replayScript, ofLetters(partition), [most, ...ids], clock))),
    discard: async (partition, ids) => Number(await run(() => runScript(client, discardScript, [key(partition, 'dead')], ids)))
  }
}

function listOf (reply: unknown): unknown[] {
  return Array.isArray(reply) ? reply : []
}

function writeOf (reply: unknown): StoredWrite {
  const [id, key, value, given] = listOf(reply)
  return { id: String(id), key: String(key), value: bytesOf(value), deliveryCount: Number(given) }
}

function deadLetterOf ([id, [, key, , value, , writeId, , reason, , given]]: [Buffer, Buffer[]]): StoredDeadLetter {
  return { id: String(id), writeId: String(writeId), key: String(key), value: bytesOf(value), reason: String(reason), deliveryCount: Number(given) }
}

function bytesOf (value: unknown): Buffer {
  return Buffer.isBuffer(value) ? value : Buffer.alloc(0)
}
