import type { SessionStore } from '@fastify/session'
import type { Redis } from 'ioredis'

const DAY_MS = 86_400_000

/**
 * Stores sessions as `connect-redis` and similar stores do: one JSON text, rewritten by each save, for a day if the
 * cookie has no age.
 */
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
