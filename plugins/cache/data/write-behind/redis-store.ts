import { keySpace } from '../../../shared/plugin/keys.js'
import { sendScript, type Script } from '../../../shared/redis/script.js'
import {
  createRedisQueue, createRedisRegistry, listOf, type QueueRedis
} from '../../../shared/work-queue/redis-queue.js'
import type { ResolvedWriteBehindOptions } from './options.js'
import { addScript, GROUP, IDLE_MS, queueScripts, stateScript, takeScript } from './scripts.js'
import type { WriteBehindStore } from './store.js'

interface RedisWriteBehindOptions extends QueueRedis {
  prefix: string
  /** Plain characters. */
  name: string
  limits: Pick<ResolvedWriteBehindOptions<unknown>, 'maxBacklog' | 'maxDeadLetters'>
}

/**
 * Stores accepted writes in Redis: each partition is a stream with a consumer group, and all its keys lie in one slot
 * of a Cluster. Finished writes are deleted, so that the stream is the backlog.
 */
export function createRedisWriteBehindStore (options: RedisWriteBehindOptions): WriteBehindStore {
  const { client, run, clock, prefix, name, limits: { maxBacklog, maxDeadLetters } } = options
  const space = keySpace(prefix, 'cache', 'behind')
  const key = (partition: number, what: string) => `${space}{${name}.${partition}}:${what}`
  const call = (script: Script, keys: string[], args: Array<string | number | Buffer>) =>
    run(() => sendScript(client, script, keys, args, clock))

  return {
    instances: createRedisRegistry(options, `${space}{${name}}:instances`),
    async add (partition, writeKey, value) {
      const reply = await call(addScript, [key(partition, 'stream')], [writeKey, value, maxBacklog])
      if (reply === null) return undefined
      const [id, backlog] = listOf(reply)
      return { id: String(id), backlog: Number(backlog) }
    },
    queue (partition) {
      const stream = key(partition, 'stream')
      return createRedisQueue(options, {
        group: GROUP,
        sources: [{ name: 'log', key: stream, emptyTtl: IDLE_MS }],
        keys: { owner: key(partition, 'owner'), fence: key(partition, 'fence'), dead: key(partition, 'dead') },
        scripts: queueScripts,
        take: { script: takeScript, keys: [stream], args: [] },
        replay: { target: stream, maxLength: maxBacklog, args: ['', '', ''] },
        maxDeadLetters
      })
    },
    async state (partition) {
      const reply = await call(stateScript, [key(partition, 'stream'), key(partition, 'dead')], [])
      const [backlog, deadLetters, first, last, now] = listOf(reply)
      const ids = { first: String(first) || undefined, last: String(last) || undefined }
      return { backlog: Number(backlog), deadLetters: Number(deadLetters), ...ids, now: Number(now) }
    }
  }
}
