import { reasonOf } from '../../shared/plugin/errors.js'
import { timeOfId } from '../../shared/work-queue/stream-ids.js'
import { UnserializableError } from './errors.js'
import type { StoredMessage } from '../../shared/work-queue/queue.js'
import type { StreamEvent } from './types.js'

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** @throws `FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE` */
export function encode (name: string, data: unknown): Buffer {
  let text: string | undefined
  try {
    text = JSON.stringify(data)
  } catch (error) {
    throw new UnserializableError(name, reasonOf(error))
  }
  if (text === undefined) throw new UnserializableError(name, `it is ${typeof data}`)
  return Buffer.from(text)
}

/** @throws where the bytes are not JSON */
export function decode<T> (value: Buffer): T {
  return JSON.parse(utf8.decode(value))
}

/** @throws where the value is not JSON */
export function decodeEvent<T> (stored: StoredMessage, id: string): StreamEvent<T> {
  return { id, key: stored.key, data: decode<T>(stored.value), appendedAt: timeOfId(stored.id) }
}
