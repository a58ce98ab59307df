import type { SessionStore } from '@fastify/session'
import type { Redis } from 'ioredis'

const DAY_MS = 86_400_000

/** What `connect-redis` and its kin do: a session is one JSON text, which each save writes anew, for a day where the cookie has no age. */
export function createBlobStore (redis: Redis): SessionStore {
  const keyOf = (id: string) => `sess:${id}`
  return {
    get (id, callback) {
      redis.get(keyOf(id)).then(text => callback(null, text === null ? null : JSON.parse(text)), callback)
    },
    set (id, session, callback) {
      const age = session.cookie.originalMaxAge ?? DAY_MS
      redis.set(keyOf(id), JSON.stringify(session), 'PX', age).then(() => callback(), callback)
    },
    destroy (id, callback) {
      redis.del(keyOf(id)).then(() => callback(), callback)
    }
  }
}
