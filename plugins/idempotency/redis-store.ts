import type { RedisClient } from '../shared/client.js'
import { keySpace } from '../shared/keys.js'
import { runScript, runScriptForBytes } from '../shared/script.js'
import { claimScript, completeScript, releaseScript, renewScript } from './scripts.js'
import type { Claim, IdempotencyStore, StoredAnswer } from './store.js'

/** Keeps a hash a key in Redis; each step is one script on that key alone. */
export function createRedisStore (client: RedisClient, prefix: string): IdempotencyStore {
  const space = keySpace(prefix, 'idempotency', 'key')
  return {
    async claim ({ id, fingerprint, token }, lease) {
      return readClaim(await runScriptForBytes(client, claimScript, [space + id], [fingerprint, token, lease]))
    },
    async renew ({ id, token }, lease) {
      return await runScript(client, renewScript, [space + id], [token, lease]) === 1
    },
    async complete ({ id, fingerprint, token }, { status, headers, body }, ttl) {
      const head = JSON.stringify({ status, headers, ...body === 'too-large' && { tooLarge: true } })
      const args = [token, fingerprint, ttl, head, ...body instanceof Buffer ? [body] : []]
      return await runScript(client, completeScript, [space + id], args) === 1
    },
    async release ({ id, token }) { await runScript(client, releaseScript, [space + id], [token]) }
  }
}

function readClaim (reply: unknown): Claim {
  const [what, head, body]: unknown[] = Array.isArray(reply) ? reply : []
  const word = String(what)
  if (word === 'mine' || word === 'theirs' || word === 'other') return word
  const { status, headers, tooLarge }: Pick<StoredAnswer, 'status' | 'headers'> & { tooLarge?: boolean } = JSON.parse(String(head))
  return { status, headers, body: tooLarge ? 'too-large' : body instanceof Buffer ? body : null }
}
