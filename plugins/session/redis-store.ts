import type { RedisClient } from '../shared/client.js'
import { hashId, keySpace } from '../shared/keys.js'
import { runScript } from '../shared/script.js'
import { destroySession, readSession, writeSession } from './scripts.js'
import type { SessionInfo, SessionStore, SessionTimeouts, StoredSession } from './store.js'

const FIELD = 'f:'

/**
 * Keeps sessions in Redis: a hash a session, one round trip a read or write, and a sorted set a user, by the time
 * at which each session ends at the latest.
 */
export function createRedisStore (client: RedisClient, prefix: string, { idleTimeout, absoluteTimeout }: SessionTimeouts): SessionStore {
  const sessions = keySpace(prefix, 'session', 'data')
  const users = keySpace(prefix, 'session', 'user')
  const timeouts = [idleTimeout, absoluteTimeout]

  async function indexForUser (user: string, handle: string): Promise<void> {
    await Promise.all([
      client.zadd(users + user, Date.now() + absoluteTimeout, handle),
      client.pexpire(users + user, absoluteTimeout)
    ])
  }

  async function infoOf (handle: string): Promise<SessionInfo | undefined> {
    const [created, seen] = await client.hmget(sessions + handle, 'created', 'seen')
    return created ? { handle, createdAt: Number(created), lastSeenAt: Number(seen) } : undefined
  }

  return {
    async read (handle) {
      const reply = await runScript(client, readSession, [sessions + handle], timeouts)
      return Array.isArray(reply) ? parse(reply.map(String)) : undefined
    },
    async write (handle, change) {
      const user = change.user === undefined ? '' : hashId(change.user)
      // First the index: a session that is in no index could not be found to be destroyed.
      if (user !== '') await indexForUser(user, handle)
      const pairs = Object.entries(change.set).flatMap(([name, json]) => [FIELD + name, json])
      const args = [...timeouts, change.create ? 1 : 0, user, pairs.length / 2, ...pairs, ...change.delete.map(name => FIELD + name)]
      return await runScript(client, writeSession, [sessions + handle], args) === 1
    },
    async destroy (handle) {
      const user = await runScript(client, destroySession, [sessions + handle], [])
      if (typeof user === 'string') await client.zrem(users + user, handle)
    },
    async list (userId) {
      const user = users + hashId(userId)
      await client.zremrangebyscore(user, '-inf', String(Date.now()))
      const handles = await client.zrange(user, '0', '-1')
      const infos = await Promise.all(handles.map(infoOf))
      const gone = handles.filter((_, i) => infos[i] === undefined)
      if (gone.length > 0) await client.zrem(user, ...gone)
      return infos.filter(info => info !== undefined)
    }
  }
}

function parse (reply: string[]): StoredSession {
  const stored: StoredSession = { fields: {}, createdAt: 0, lastSeenAt: 0 }
  for (let i = 0; i + 1 < reply.length; i += 2) {
    const [name = '', value = ''] = [reply[i], reply[i + 1]]
    if (name.startsWith(FIELD)) stored.fields[name.slice(FIELD.length)] = value
    else if (name === 'created') stored.createdAt = Number(value)
    else if (name === 'seen') stored.lastSeenAt = Number(value)
  }
  return stored
}
