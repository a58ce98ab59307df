import type { RedisPort } from '../../shared/redis/port.js'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import { clientFor } from '../../shared/redis/cluster-nodes.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { keySpace } from '../../shared/plugin/keys.js'
import { MicroBatch } from '../../shared/redis/micro-batch.js'
import { sendScript } from '../../shared/redis/script.js'
import {
  CREATED, destroyScript, enterScript, lifeScript, LINES, MARK, nowScript, renewScript, SEALED, SEEN
} from './scripts.js'
import { writeScript } from './write-script.js'
import {
  endedChannel, renewalOf, type SessionChange, type SessionStore, type SessionTimeouts, type StoredInfo,
  type StoredSession
} from './store.js'

/** The sessions that one command reads. Redis executes it in a fraction of a millisecond. */
const MAX_READS = 64

/**
 * Stores sessions in Redis: a string for each session, and a sorted set for each user, by the time at which each
 * session was added. One command reads all sessions of a turn of the event loop.
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
      run(() => pipeline.send(batch[0]?.request ?? '', 'mget', batch.map(({ request: key }) => key))),
    sendApart (batch, pipeline) {
      // GET of a key of another type is an error, MGET has no value for it.
      const read = async (key: string) => await pipeline.send(key, 'mget', [key])
      return batch.map(({ request: key }) => run(() => read(key)))
    },
    parse: reply => Array.isArray(reply) ? reply.map(parseReply) : []
  })
  // A session that is read just before its renewal lives for the whole idle time-out after that.
  const timeouts = [idleTimeout + renewalOf(idleTimeout), absoluteTimeout]

  async function infoOf (handle: string): Promise<StoredInfo | undefined> {
    const key = sessions + handle
    const stored = await clientFor(client, key).send<string | null>('get', [key])
    const session = stored === null ? undefined : parseSession(stored)
    if (session === undefined) return undefined
    const { user, createdAt, lastSeenAt, device } = session
    return { handle, user, createdAt, lastSeenAt, device }
  }

  /** @returns the new version, undefined without a session, or 0 if another request has written */
  async function send (handle: string, change: SessionChange, changes: readonly string[]): Promise<unknown> {
    const { isSealed, create, from, text, owner } = change
    const args = [
      ...timeouts, create ? 1 : 0, from, isSealed ? 1 : 0, owner === undefined ? 0 : 1, owner?.user ?? '',
      owner?.user === undefined ? '' : owner.device, text, ...changes
    ]
    return await sendScript(client, writeScript, [sessions + handle], args, clock)
  }

  return {
    read: handle => reads.add(sessions + handle),
    async renew (handle, user) {
      await Promise.all([
        sendScript(client, renewScript, [sessions + handle], timeouts, clock),
        user !== undefined && sendScript(client, enterScript, [users + user], [handle, absoluteTimeout, 0], clock)
      ])
    },
    async write (handle, change) {
      const version = await send(handle, change, [])
      const merged = version === 0 ? await send(handle, change, changesOf(change)) : version
      return typeof merged === 'string' ? merged : undefined
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

/** Returns the changes as arguments of the script. */
function changesOf ({ set, delete: gone }: SessionChange): string[] {
  const pairs = Object.entries(set).flatMap(([name, json]) => [JSON.stringify(name), json])
  return [String(pairs.length / 2), ...pairs, ...gone.map(name => JSON.stringify(name))]
}

function parseReply (reply: unknown): StoredSession | undefined | Error {
  if (reply === null) return undefined
  return typeof reply === 'string' ? parseSession(reply) : new TypeError('unexpected reply to MGET')
}

/** Returns undefined for what is no session, as a tombstone. */
function parseSession (stored: string): StoredSession & { device: string } | undefined {
  if (!stored.startsWith(MARK)) return undefined
  const user = stored.indexOf('\n', LINES) + 1
  const device = stored.indexOf('\n', user) + 1
  const text = stored.indexOf('\n', device) + 1
  const createdAt = Number(stored.slice(CREATED, SEEN))
  const lastSeenAt = Number(stored.slice(SEEN, SEALED))
  if (user === 0 || device === 0 || text === 0 || !(createdAt >= 0 && lastSeenAt >= 0)) return undefined
  return {
    text: stored.slice(text),
    isSealed: stored[SEALED] === '1',
    version: stored.slice(LINES, user - 1),
    user: stored.slice(user, device - 1) || undefined,
    device: stored.slice(device, text - 1),
    createdAt,
    lastSeenAt
  }
}
