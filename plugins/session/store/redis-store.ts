import type { RedisPort } from '../../shared/redis/port.js'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import { clientFor } from '../../shared/redis/cluster-nodes.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { keySpace } from '../../shared/plugin/keys.js'
import { MicroBatch } from '../../shared/redis/micro-batch.js'
import { readScriptIn, sendScript } from '../../shared/redis/script.js'
import { destroyScript, enterScript, FIELDS, lifeScript, nowScript, readScript, renewScript } from './scripts.js'
import { mergeScript } from './merge-script.js'
import {
  endedChannel, renewalOf, type SessionStore, type SessionTimeouts, type StoredInfo, type StoredSession
} from './store.js'

const FIELD = 'f:'
/** The sessions that one script reads. Redis executes it in a fraction of a millisecond. */
const MAX_READS = 64

/**
 * Stores sessions in Redis: a hash for each session, and a sorted set for each user, by the time at which each session
 * was added. One script reads all sessions of a turn of the event loop.
 *
 * @param run - applies the deadline and the circuit to reads
 */
export function createRedisStore (
  client: RedisPort, prefix: string, {
    idleTimeout, absoluteTimeout
  }: SessionTimeouts, run: RedisGuard['run'] = operation => operation(),
  clock: Clock = systemClock
): SessionStore {
  const sessions = keySpace(prefix, 'session', 'data')
  const users = keySpace(prefix, 'session', 'user')
  const ended = endedChannel(client, prefix)
  const reads = new MicroBatch<string, StoredSession | undefined>({
    client,
    maxSize: MAX_READS,
    sendTogether: (batch, pipeline) =>
      run(() => readScriptIn(pipeline, readScript, batch.map(({ request: key }) => key))),
    sendApart (batch, pipeline) {
      const read = async (key: string) => [await pipeline.send(key, 'hmget', [key, ...FIELDS])]
      return batch.map(({ request: key }) => run(() => read(key)))
    },
    parse: reply => Array.isArray(reply) ? reply.map(parseSession) : []
  })
  // A session that is read just before its renewal lives for the whole idle time-out after that.
  const timeouts = [idleTimeout + renewalOf(idleTimeout), absoluteTimeout]

  async function infoOf (handle: string): Promise<StoredInfo | undefined> {
    const key = sessions + handle
    const fields = await clientFor(client, key).send<Array<string | null>>(
      'hmget', [key, 'created', 'seen', 'user', 'device']
    )
    const [created, seen, user = null, device] = fields
    if (!created) return undefined
    return {
      handle, user: user ?? undefined, createdAt: Number(created), lastSeenAt: Number(seen), device: device ?? ''
    }
  }

  return {
    read: handle => reads.add(sessions + handle),
    async renew (handle, user) {
      await Promise.all([
        sendScript(client, renewScript, [sessions + handle], timeouts, clock),
        user !== undefined && sendScript(client, enterScript, [users + user], [handle, absoluteTimeout, 0], clock)
      ])
    },
    async write (handle, { set, isSealed, delete: gone, create, from, text, owner }) {
      // The script sets the version.
      const pairs = ['version', '', 'all', text, 'sealed', isSealed ? '1' : '0']
      for (const [name, json] of Object.entries(set)) pairs.push(FIELD + name, json)
      const removed = gone.map(name => FIELD + name)
      if (owner?.user !== undefined) pairs.push('user', owner.user, 'device', owner.device)
      else if (owner !== undefined) removed.push('user', 'device')
      const args = [...timeouts, create ? 1 : 0, from, pairs.length / 2, ...pairs, ...removed]
      const version = await sendScript(client, mergeScript, [sessions + handle], args, clock)
      return typeof version === 'string' ? version : undefined
    },
    lifeOf: async handle => Number(await sendScript(client, lifeScript, [sessions + handle], [])),
    async destroy (handle) {
      const user = await sendScript(client, destroyScript, [sessions + handle], [ended, handle])
      return typeof user !== 'string' ? undefined : user === '' ? null : user
    },
    async enter (user, handle, max) {
      const reply = await sendScript(client, enterScript, [users + user], [handle, absoluteTimeout, max], clock)
      return Array.isArray(reply) ? reply.map(String) : undefined
    },
    async leave (
      user, handles
    ) { if (handles.length > 0) await clientFor(client, users + user).send('zrem', [users + user, ...handles]) },
    async members (user, until, from, count) {
      const args = [users + user, '-inf', until, 'LIMIT', from, count]
      return await clientFor(client, users + user).send<string[]>('zrangebyscore', args)
    },
    infos: async handles => await Promise.all(handles.map(infoOf)),
    now: async user => Number(await sendScript(client, nowScript, [users + user], [], clock))
  }
}

/** @param reply - the fields in the order of {@link FIELDS}: the script's text, or the array of `HMGET` */
function parseSession (reply: unknown): StoredSession | undefined | Error {
  const fields: unknown = typeof reply === 'string' ? split(reply) : reply
  if (!Array.isArray(fields)) {
    return reply instanceof Error ? reply : new TypeError('unexpected reply of a session script')
  }
  const [version, user, created, seen, sealed, text] = fields as Array<string | null>
  if (!text || !created) return undefined
  const [createdAt, lastSeenAt] = [Number(created), Number(seen)]
  return { text, isSealed: sealed === '1', version: version ?? '', user: user || undefined, createdAt, lastSeenAt }
}

/** The last field is the rest of the reply: it may contain spaces. */
function split (reply: string): string[] {
  const fields: string[] = []
  let start = 0
  for (let end = reply.indexOf(' '); end !== -1 && fields.length < FIELDS.length - 1; end = reply.indexOf(' ', start)) {
    fields.push(reply.slice(start, end))
    start = end + 1
  }
  return [...fields, reply.slice(start)]
}
