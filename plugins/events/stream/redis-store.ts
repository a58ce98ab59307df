import { databaseChannel, type RedisClient } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { keySpace } from '../../shared/plugin/keys.js'
import { acquireScript, aliveScript, renewScript } from '../../shared/work-queue/lease-scripts.js'
import { runScript, runScriptForBytes, type Script } from '../../shared/redis/script.js'
import { idAfter } from '../../shared/work-queue/stream-ids.js'
import type { ResolvedStreamOptions } from './options.js'
import { appendScript, deadLetterScript, ackScript, foundScript, markScript, pendingScript, discardScript, replayScript, stateScript, takeScript } from './scripts.js'
import { groupState, type Holder, type Source, type StoredEvent, type StoredEventDeadLetter, type StreamStore, type TakenEvent } from './store.js'

type Run = <T>(operation: () => Promise<T>) => Promise<T>
type What = 'log' | 'meta' | `${'again' | 'dead' | 'owner' | 'fence'}:${string}`

export interface RedisStreamsOptions {
  client: RedisClient
  prefix: string
  /** Plain characters. */
  name: string
  options: ResolvedStreamOptions
  /** Calls Redis by the policy on failure. */
  run: Run
  clock: Clock
}

/** The channel on which instances tell each other of new events: `{name}.{partition}`. */
export function channelOf (client: RedisClient, prefix: string): string {
  return databaseChannel(client, `${prefix}:events:stream`)
}

/**
 * Keeps events in Redis: each partition is a stream, and what belongs to it lies in one slot of a Cluster.
 */
export function createRedisStreams ({ client, prefix, name, options, run, clock }: RedisStreamsOptions): StreamStore {
  const { maxLength, maxAge, maxDeadLetters } = options
  // How far groups are is worth something as long as there are events.
  const retention = Math.max(options.retention, maxAge)
  const space = keySpace(prefix, 'events', 'stream')
  const channel = channelOf(client, prefix)
  const key = (partition: number, what: What) => `${space}{${name}.${partition}}:${what}`
  const instances = (group: string) => `${space}{${name}}:instances:${group}`
  const owner = ({ partition, group }: Holder) => key(partition, `owner:${group}`)
  const sourceOf = ({ partition, group }: Holder, source: Source) => key(partition, source === 'log' ? 'log' : `again:${group}`)

  const script = (called: Script, keys: readonly string[], args: ReadonlyArray<string | number | Buffer>) => runScript(client, called, keys, args, clock)

  return {
    async append (partition, eventKey, value) {
      const args = [value, maxLength, maxAge, retention, channel, `${name}.${partition}`]
      const reply = await run(() => script(appendScript, [key(partition, 'log'), key(partition, 'meta')], eventKey === undefined ? args : [...args, eventKey]))
      const [id, n] = listOf(reply)
      return { id: String(id), n: Number(n) }
    },
    range: async (partition, after, count) =>
      (await run(() => client.xrangeBuffer(key(partition, 'log'), idAfter(after), '+', 'COUNT', count))).map(([id, fields]) => eventOf(id, fields)),

    async found (partition, group, from) {
      await run(() => script(foundScript, [key(partition, 'log'), key(partition, 'meta')], [group, from, maxAge, retention]))
    },
    heartbeat: async (group, instance, ms) => Number(await run(() => script(aliveScript, [instances(group)], [instance, ms]))),
    async deregister (group, instance) { await run(() => client.zrem(instances(group), instance)) },

    async acquire (holder, ms) {
      const fence = await run(() => script(acquireScript, [owner(holder), key(holder.partition, `fence:${holder.group}`)], [holder.token, ms]))
      return fence === null ? undefined : Number(fence)
    },
    renew: async (holder, ms) => await run(() => script(renewScript, [owner(holder)], [holder.token, ms])) === 1,
    async release (holder) { await run(() => script(renewScript, [owner(holder)], [holder.token, 0])) },

    async pending (holder, source, after, count) {
      const keys = [owner(holder), sourceOf(holder, source), key(holder.partition, 'meta')]
      const from = after === undefined ? '-' : idAfter(after)
      const reply = await run(() => runScriptForBytes(client, pendingScript, keys, [holder.token, holder.group, from, count]))
      if (reply === null) return undefined
      const [next, ...found] = listOf(reply)
      const events = found.map(listOf).map(([id, fields, given]) => takenOf(source, id, fields, Number(given)))
      return { events, next: String(next) || undefined }
    },
    async take (holder, from, count) {
      const keys = [owner(holder), sourceOf(holder, 'log'), key(holder.partition, 'meta'), sourceOf(holder, 'again')]
      const args = [holder.token, holder.group, from, count, maxAge, retention]
      const reply = await run(() => runScriptForBytes(client, takeScript, keys, args))
      if (reply === null) return undefined
      return listOf(reply).map(listOf).map(([source, id, fields]) => takenOf(String(source) === 'log' ? 'log' : 'again', id, fields, 0))
    },
    mark: async (holder, { source, entry }, given) =>
      await run(() => script(markScript, [owner(holder), sourceOf(holder, source)], [holder.token, holder.group, entry, given])) === 1,
    ack: async (holder, source, entries) =>
      await run(() => script(ackScript, [owner(holder), sourceOf(holder, source)], [holder.token, holder.group, source, ...entries])) === 1,
    async deadLetter (holder, { source, entry, id, n, key: eventKey, value }, reason, given) {
      const keys = [owner(holder), sourceOf(holder, source), key(holder.partition, `dead:${holder.group}`)]
      const fields = ['n', n, 'v', value, 'id', id, 'reason', reason, 'given', given, ...eventKey === undefined ? [] : ['k', eventKey]]
      const dropped = await run(() => script(deadLetterScript, keys, [holder.token, holder.group, source, entry, maxDeadLetters, options.retention, ...fields]))
      return dropped === null ? undefined : Number(dropped)
    },

    async state (partition) {
      const [length, meta, firsts, lasts, infos] = listOf(await run(() => script(stateScript, [key(partition, 'log'), key(partition, 'meta')], [])))
      const fields = mapOf(meta)
      const count = Number(fields.get('n') ?? 0)
      const [first] = listOf(firsts).map(listOf)
      const [last] = listOf(lasts).map(listOf)
      const firstN = first === undefined ? count + 1 : Number(mapOf(first[1]).get('n'))
      const pending = new Map(listOf(infos).map(info => mapOf(info)).map(info => [String(info.get('name')), Number(info.get('pending'))]))
      const names = [...fields.keys()].filter(field => field.startsWith('read:')).map(field => field.slice('read:'.length))
      const groups = await Promise.all(names.map(async group => ({
        group,
        pending: pending.get(group) ?? 0,
        deadLetters: await run(() => client.xlen(key(partition, `dead:${group}`))),
        ...groupState(count, firstN, Number(fields.get(`read:${group}`)), Number(fields.get(`lost:${group}`) ?? 0))
      })))
      return { length: Number(length), count, last: last === undefined ? undefined : String(last[0]), groups }
    },
    deadLetters: async (partition, group, from, count) =>
      (await run(() => client.xrangeBuffer(key(partition, `dead:${group}`), from, '+', 'COUNT', count))).map(([id, fields]) => letterOf(id, fields)),
    deadLetterCount: (partition, group) => run(() => client.xlen(key(partition, `dead:${group}`))),
    replay: async (partition, group, ids) => Number(await run(() => script(replayScript,
      [key(partition, `again:${group}`), key(partition, `dead:${group}`)], [retention, channel, `${name}.${partition}`, ...ids]))),
    discard: async (partition, group, ids) => Number(await run(() => script(discardScript, [key(partition, `dead:${group}`)], ids)))
  }
}

function listOf (reply: unknown): unknown[] {
  return Array.isArray(reply) ? reply : []
}

/** Names and values in turn. */
function mapOf (reply: unknown): Map<string, unknown> {
  const list = listOf(reply)
  return new Map(list.flatMap((name, i) => i % 2 === 0 ? [[String(name), list[i + 1]] as const] : []))
}

function eventOf (id: unknown, fields: unknown): StoredEvent {
  const map = mapOf(fields)
  const [key, value] = [map.get('k'), map.get('v')]
  return { id: String(map.get('id') ?? id), n: Number(map.get('n')), key: key === undefined ? undefined : String(key), value: bytesOf(value) }
}

function takenOf (source: Source, id: unknown, fields: unknown, given: number): TakenEvent {
  return { ...eventOf(id, fields), source, entry: String(id), deliveryCount: given }
}

function letterOf (id: unknown, fields: unknown): StoredEventDeadLetter {
  const map = mapOf(fields)
  return { ...eventOf(id, fields), id: String(id), eventId: String(map.get('id')), reason: String(map.get('reason')), deliveryCount: Number(map.get('given')) }
}

function bytesOf (value: unknown): Buffer {
  return Buffer.isBuffer(value) ? value : Buffer.alloc(0)
}
