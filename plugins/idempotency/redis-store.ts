import type { RedisPort } from '../shared/redis/port.js'
import { areSendable } from '../shared/http/sendable.js'
import { keySpace } from '../shared/plugin/keys.js'
import { sendScript, sendScriptForBytes } from '../shared/redis/script.js'
import { acquireScript, completeScript, releaseScript, renewScript } from './scripts.js'
import { ACQUIRED, IN_PROGRESS, type IdempotencyStore, type KeyState, type RecordedResponse } from './store.js'

/** Holds each key as a hash in Redis; each method is one script on that key alone. */
export function createRedisStore (client: RedisPort, prefix: string): IdempotencyStore {
  const space = keySpace(prefix, 'idempotency', 'key')
  return {
    async acquire ({ id, fingerprint, token }, lease) {
      return readState(await sendScriptForBytes(client, acquireScript, [space + id], [fingerprint, token, lease]))
    },
    async renew ({ id, token }, lease) {
      return await sendScript(client, renewScript, [space + id], [token, lease]) === 1
    },
    async complete ({ id, fingerprint, token }, { status, headers, body }, ttl) {
      const head = JSON.stringify({ status, headers, ...body === 'too-large' && { tooLarge: true } })
      const args = [token, fingerprint, ttl, head, ...body instanceof Buffer ? [body] : []]
      return await sendScript(client, completeScript, [space + id], args) === 1
    },
    async release ({ id, token }) { await sendScript(client, releaseScript, [space + id], [token, 0]) },
    async retract ({ id, token }) { await sendScript(client, releaseScript, [space + id], [token, 1]) }
  }
}

function readState (reply: unknown): KeyState {
  const [kind, head, body]: unknown[] = Array.isArray(reply) ? reply : []
  switch (String(kind)) {
    case 'acquired': return ACQUIRED
    case 'inProgress': return IN_PROGRESS
    case 'mismatch': return { kind: 'mismatch', fingerprint: String(head) }
    default: {
      const { status, headers, tooLarge } = readHead(String(head))
      return {
        kind: 'stored',
        response: { status, headers, body: tooLarge ? 'too-large' : body instanceof Buffer ? body : null }
      }
    }
  }
}

type Head = Pick<RecordedResponse, 'status' | 'headers'> & { tooLarge?: boolean }

/** @throws if the text is not a head that can be sent. The error does not repeat the text, which may be secret. */
function readHead (text: string): Head {
  try {
    const head: unknown = JSON.parse(text)
    if (isHead(head) && areSendable(head.headers)) return head
  } catch {}
  throw new Error('the stored response cannot be read')
}

function isHead (head: unknown): head is Head {
  if (typeof head !== 'object' || head === null || !('status' in head) || !('headers' in head)) return false
  const { status, headers } = head
  return Number.isInteger(status) && Number(status) >= 100 && Number(status) < 600 && typeof headers === 'object' &&
    headers !== null &&
    Object.values(headers).every(value => [value].flat().every(each => typeof each === 'string'))
}
