import { createDeadLetters, type DeadLetters } from '../../../shared/work-queue/dead-letters.js'
import type { Cached } from '../jsonify.js'
import type { ResolvedWriteBehindOptions } from './options.js'
import { timeOfId } from '../../../shared/work-queue/stream-ids.js'
import type { WriteBehindStore, StoredDeadLetter } from './store.js'

/** A write that was given up. */
export interface DeadLetter<T> {
  /** Its own: for `after`, `replay` and `discard`. */
  id: string
  /** The write's, see {@link Write}. */
  writeId: string
  key: string
  /** Undefined where it cannot be read. */
  value: Cached<T> | undefined
  /** The message of the last error. */
  reason: string
  /** How often it was given. */
  attempts: number
  /** When it was given up, by the store's clock: milliseconds since the epoch. */
  diedAt: number
}

export function createWriteDeadLetters<T> (store: WriteBehindStore, { partitions, maxBacklog }: ResolvedWriteBehindOptions<T>, decode: (bytes: Buffer) => T): DeadLetters<DeadLetter<T>> {
  return createDeadLetters<StoredDeadLetter, DeadLetter<T>>({
    plugin: 'cache',
    partitions,
    size: async partition => (await store.state(partition)).deadLetters,
    list: store.deadLetters,
    replay: (partition, ids) => store.replay(partition, ids, maxBacklog),
    discard: store.discard
  }, ({ id, writeId, key, value, reason, deliveryCount }, partition) => {
    const letter = { id: `${id}.${partition}`, writeId: `${writeId}.${partition}`, key, reason, attempts: deliveryCount, diedAt: timeOfId(id) }
    try {
      return { ...letter, value: decode(value) as Cached<T> }
    } catch {
      return { ...letter, value: undefined }
    }
  })
}
