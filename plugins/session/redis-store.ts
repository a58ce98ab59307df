import type { RedisClient } from '../shared/client.js'
import { keySpace } from '../shared/keys.js'
import { runScript } from '../shared/script.js'
import { destroyScript, enterScript, readScript, writeScript } from './scripts.js'
import type { SessionStore, SessionTimeouts, StoredInfo, StoredSession } from './store.js'

const FIELD = 'f:'

/**
 * Keeps sessions in Redis: a hash a session, one round trip a read or write, and a sorted set a user, by the time
 * at which each session was entered.
 */
export function createRedisStore (client: RedisClient, prefix: string, { idleTimeout, absoluteTimeout }: SessionTimeouts): SessionStore {
  const sessions = keySpace(prefix, 'session', 'data')
  const users = keySpace(prefix, 'session', 'user')
  const timeouts = [idleTimeout, absoluteTimeout]

  async function infoOf (handle: string): Promise<StoredInfo | undefined> {
    const [created, seen, user, device] = await client.hmget(sessions + handle, 'created', 'seen', 'user', 'device')
    return created ? { handle, user: user ?? undefined, createdAt: Number(created), lastSeenAt: Number(seen), device: device ?? '' } : undefined
  }

  return {
    async read (handle) {
      const reply = await runScript(client, readScript, [sessions + handle], timeouts)
      return Array.isArray(reply) ? parse(reply.map(String)) : undefined
    },
    async write (handle, { set, delete: gone, create, owner }) {
      const pairs = Object.entries(set).flatMap(([name, value]) => [FIELD + name, value])
      const removed = gone.map(name => FIELD + name)
      if (owner?.user !== undefined) pairs.push('user', owner.user, 'device', owner.device)
      else if (owner !== undefined) removed.push('user', 'device')
      const args = [...timeouts, create ? 1 : 0, pairs.length / 2, ...pairs, ...removed]
      return await runScript(client, writeScript, [sessions + handle], args) === 1
    },
    async destroy (handle) {
      const user = await runScript(client, destroyScript, [sessions + handle], [])
      return typeof user !== 'string' ? undefined : user === '' ? null : user
    },
    async enter (user, handle, max) {
      const reply = await runScript(client, enterScript, [users + user], [handle, absoluteTimeout, max])
      return Array.isArray(reply) ? reply.map(String) : undefined
    },
    async leave (user, handles) { if (handles.length > 0) await client.zrem(users + user, ...handles) },
    members: async (user, until, from, count) => await client.zrangebyscore(users + user, '-inf', until, 'LIMIT', from, count),
    infos: async handles => await Promise.all(handles.map(infoOf)),
    async now () {
      const [seconds, microseconds] = await client.time()
      return Number(seconds) * 1000 + Math.floor(Number(microseconds) / 1000)
    }
  }
}

function parse (reply: string[]): StoredSession {
  const stored: StoredSession = { fields: {}, user: undefined, createdAt: 0, lastSeenAt: 0 }
  for (let i = 0; i + 1 < reply.length; i += 2) {
    const [name = '', value = ''] = [reply[i], reply[i + 1]]
    if (name.startsWith(FIELD)) stored.fields[name.slice(FIELD.length)] = value
    else if (name === 'user') stored.user = value
    else if (name === 'created') stored.createdAt = Number(value)
    else if (name === 'seen') stored.lastSeenAt = Number(value)
  }
  return stored
}
