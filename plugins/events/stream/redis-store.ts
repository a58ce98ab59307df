import { databaseChannel, type RedisClient } from '../../shared/redis/client.js'
import { keySpace } from '../../shared/plugin/keys.js'
import { runScript, type Script } from '../../shared/redis/script.js'
import { createRedisQueue, createRedisRegistry, listOf, mapOf, messageOf, type QueueRedis } from '../../shared/work-queue/redis-queue.js'
import { idAfter } from '../../shared/work-queue/stream-ids.js'
import type { ResolvedStreamOptions } from './options.js'
import { appendScript, ensureGroupScript, queueScripts, stateScript, takeScript } from './scripts.js'
import { groupState, type StreamStore } from './store.js'

type What = 'log' | 'meta' | `${'again' | 'dead' | 'owner' | 'fence'}:${string}`

export interface RedisStreamsOptions extends QueueRedis {
  prefix: string
  /** Plain characters. */
  name: string
  options: ResolvedStreamOptions
}

/** Returns the channel on which instances notify each other of new events, by messages `{name}.{partition}`. */
export function channelOf (client: RedisClient, prefix: string): string {
  return databaseChannel(client, `${prefix}:events:stream`)
}

/** Stores events in Redis: each partition is a stream, and all its keys lie in one slot of a Cluster. */
export function createRedisStreams ({ prefix, name, options, ...redis }: RedisStreamsOptions): StreamStore {
  const { client, run, clock } = redis
  const { maxLength, maxAge, maxDeadLetters } = options
  // The positions of groups are needed for as long as there are events.
  const retention = Math.max(options.retention, maxAge)
  const space = keySpace(prefix, 'events', 'stream')
  const channel = channelOf(client, prefix)
  const key = (partition: number, what: What) => `${space}{${name}.${partition}}:${what}`
  const logAndMeta = (partition: number) => [key(partition, 'log'), key(partition, 'meta')]

  function call (script: Script, keys: readonly string[], args: ReadonlyArray<string | number | Buffer>): Promise<unknown> {
    return run(() => runScript(client, script, keys, args, clock))
  }

  return {
    async append (partition, eventKey, value) {
      const args = [value, maxLength, maxAge, retention, channel, `${name}.${partition}`]
      const [id, n] = listOf(await call(appendScript, logAndMeta(partition), eventKey === undefined ? args : [...args, eventKey]))
      return { id: String(id), n: Number(n) }
    },
    range: async (partition, after, count) =>
      (await run(() => client.xrangeBuffer(key(partition, 'log'), idAfter(after), '+', 'COUNT', count))).map(([id, fields]) => messageOf(id, fields)),
    async ensureGroup (partition, group, from) { await call(ensureGroupScript, logAndMeta(partition), [group, from, maxAge, retention]) },
    queue (partition, group, from = '0') {
      const again = key(partition, `again:${group}`)
      return createRedisQueue(redis, {
        group,
        sources: [{ name: 'again', key: again, emptyTtl: 0 }, { name: 'log', key: key(partition, 'log') }],
        keys: { owner: key(partition, `owner:${group}`), fence: key(partition, `fence:${group}`), dead: key(partition, `dead:${group}`), extra: key(partition, 'meta') },
        scripts: queueScripts,
        take: { script: takeScript, keys: [...logAndMeta(partition), again], args: [from, maxAge, retention] },
        replay: { target: again, maxLength: Number.MAX_SAFE_INTEGER, args: [retention, channel, `${name}.${partition}`] },
        maxDeadLetters,
        deadLetterTtl: options.retention
      })
    },
    instances: group => createRedisRegistry(redis, `${space}{${name}}:instances:${group}`),
    async state (partition) {
      const [length, meta, firsts, lasts, infos] = listOf(await call(stateScript, logAndMeta(partition), []))
      const fields = mapOf(meta)
      const count = Number(fields.get('n') ?? 0)
      const [first] = listOf(firsts).map(listOf)
      const [last] = listOf(lasts).map(listOf)
      const firstN = first === undefined ? count + 1 : Number(mapOf(first[1]).get('n'))
      const pending = new Map(listOf(infos).map(mapOf).map(info => [String(info.get('name')), Number(info.get('pending'))]))
      const names = [...fields.keys()].filter(field => field.startsWith('read:')).map(field => field.slice('read:'.length))
      const groups = await Promise.all(names.map(async group => ({
        group,
        pending: pending.get(group) ?? 0,
        deadLetters: await run(() => client.xlen(key(partition, `dead:${group}`))),
        ...groupState(count, firstN, Number(fields.get(`read:${group}`)), Number(fields.get(`lost:${group}`) ?? 0))
      })))
      return { length: Number(length), count, last: last === undefined ? undefined : String(last[0]), groups }
    }
  }
}
