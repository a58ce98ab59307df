import { validateHeaderName, validateHeaderValue } from 'node:http'
import type { RedisClient } from '../shared/redis/client.js'
import { keySpace } from '../shared/plugin/keys.js'
import { runScript, runScriptForBytes } from '../shared/redis/script.js'
import { claimScript, completeScript, releaseScript, renewScript } from './scripts.js'
import type { Claim, IdempotencyStore, RecordedResponse } from './store.js'

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
    async release ({ id, token }) { await runScript(client, releaseScript, [space + id], [token, 0]) },
    async retract ({ id, token }) { await runScript(client, releaseScript, [space + id], [token, 1]) }
  }
}

function readClaim (reply: unknown): Claim {
  const [what, head, body]: unknown[] = Array.isArray(reply) ? reply : []
  const word = String(what)
  if (word === 'mine' || word === 'theirs') return word
  if (word === 'other') return { fingerprint: String(head) }
  const { status, headers, tooLarge } = readHead(String(head))
  return { status, headers, body: tooLarge ? 'too-large' : body instanceof Buffer ? body : null }
}

type Head = Pick<RecordedResponse, 'status' | 'headers'> & { tooLarge?: boolean }

/** @throws where it is none: nobody knows then what was answered. The parser's own error would tell what lies there. */
function readHead (text: string): Head {
  try {
    const head: unknown = JSON.parse(text)
    if (!isHead(head)) throw new TypeError('no head')
    for (const [name, values] of Object.entries(head.headers)) {
      validateHeaderName(name)
      for (const value of [values].flat()) validateHeaderValue(name, value)
    }
    return head
  } catch {
    throw new Error('what is kept of an answer cannot be read')
  }
}

function isHead (head: unknown): head is Head {
  if (typeof head !== 'object' || head === null || !('status' in head) || !('headers' in head)) return false
  const { status, headers } = head
  return Number.isInteger(status) && Number(status) >= 100 && Number(status) < 600 && typeof headers === 'object' && headers !== null &&
    Object.values(headers).every(value => [value].flat().every(each => typeof each === 'string'))
}
