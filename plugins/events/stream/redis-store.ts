import { databaseChannel } from '../../shared/redis/client.js'
import type { RedisPort } from '../../shared/redis/port.js'
import { keySpace } from '../../shared/plugin/keys.js'
import { sendScript, type Script } from '../../shared/redis/script.js'
import {
  createRedisQueue, createRedisRegistry, listOf, mapOf, messageOf, type QueueRedis
} from '../../shared/work-queue/redis-queue.js'
import { idAfter } from '../../shared/work-queue/stream-ids.js'
import type { ResolvedStreamOptions } from './options.js'
import { appendScript, ensureGroupScript, queueScripts, stateScript, takeScript } from './scripts.js'
import { groupState, type StreamStore } from './store.js'

interface RedisStreamsOptions extends QueueRedis {
  prefix: string
  /** Plain characters. */
  name: string
  options: ResolvedStreamOptions
}

/** Returns the channel on which instances notify each other of new events, by messages `{name}.{partition}`. */
export function channelOf (client: RedisPort, prefix: string): string {
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
  const key = (partition: number, what: string) => `${space}{${name}.${partition}}:${what}`
  const logAndMeta = (partition: number) => [key(partition, 'log'), key(partition, 'meta')]

  const call = (script: Script, keys: string[], args: Array<string | number | Buffer>) =>
    run(() => sendScript(client, script, keys, args, clock))

  return {
    async append (partition, eventKey, value) {
      const args = [value, maxLength, maxAge, retention, channel, `${name}.${partition}`]
      const reply = await call(appendScript, logAndMeta(partition), eventKey === undefined ? args : [...args, eventKey])
      const [id, n] = listOf(reply)
      return { id: String(id), n: Number(n) }
    },
    async range (partition, after, count) {
      const args = [key(partition, 'log'), idAfter(after), '+', 'COUNT', count]
      const entries = await run(() => client.send<Array<[Buffer, Buffer[]]>>('xrange', args, true))
      return entries.map(([id, fields]) => messageOf(id, fields))
    },
    async ensureGroup (partition, group, from) {
      await call(ensureGroupScript, logAndMeta(partition), [group, from, maxAge, retention])
    },
    queue (partition, group, from = '0') {
      const own = (what: string) => key(partition, `${what}:${group}`)
      return createRedisQueue(redis, {
        group,
        sources: [{ name: 'again', key: own('again'), emptyTtl: 0 }, { name: 'log', key: key(partition, 'log') }],
        keys: { owner: own('owner'), fence: own('fence'), dead: own('dead'), extra: key(partition, 'meta') },
        scripts: queueScripts,
        take: { script: takeScript, keys: [...logAndMeta(partition), own('again')], args: [from, maxAge, retention] },
        replay: {
          target: own('again'),
          maxLength: Number.MAX_SAFE_INTEGER,
          args: [retention, channel, `${name}.${partition}`]
        },
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
      const found = listOf(infos).map(mapOf)
      const names = [...fields.keys()].flatMap(field => field.startsWith('read:') ? [field.slice('read:'.length)] : [])
      const groups = await Promise.all(names.map(async group => ({
        group,
        pending: Number(found.find(info => String(info.get('name')) === group)?.get('pending') ?? 0),
        deadLetters: await run(() => client.send<number>('xlen', [key(partition, `dead:${group}`)])),
        ...groupState(count, firstN, Number(fields.get(`read:${group}`)), Number(fields.get(`lost:${group}`) ?? 0))
      })))
      return { length: Number(length), count, last: last === undefined ? undefined : String(last[0]), groups }
    }
  }
}
