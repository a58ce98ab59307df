import { pagesOfLetters } from '../../shared/dead-letters.js'
import type { ResolvedWriteBehindOptions } from './options.js'
import { timeOfId } from '../../shared/stream-ids.js'
import type { BehindStore, StoredDeadLetter } from './store.js'

/** A write that was given up. */
export interface DeadLetter<T> {
  /** Its own: for `after`, `replay` and `discard`. */
  id: string
  /** The write's, see {@link Write}. */
  writeId: string
  key: string
  /** Undefined where it cannot be read. */
  value: T | undefined
  /** The message of the last error. */
  reason: string
  /** How often it was given. */
  attempts: number
  /** When it was given up, by the store's clock: milliseconds since the epoch. */
  diedAt: number
}

export interface DeadLetters<T> {
  /**
   * The oldest first.
   *
   * @param options.count - the most, 1 to 1,000, default 100
   * @param options.after - the last one's id of the page before
   */
  deadLetters (options?: { count?: number, after?: string }): Promise<Array<DeadLetter<T>>>
  /**
   * Writes dead letters anew, after all writes of their keys that were accepted meanwhile.
   *
   * @param ids - default all that there are now
   * @returns how many; fewer than there are where the backlog is full
   */
  replay (ids?: readonly string[]): Promise<number>
  /** Forgets dead letters. @param ids - default all that there are now @returns how many there were */
  discard (ids?: readonly string[]): Promise<number>
}

export function createLetters<T> (store: BehindStore, { partitions, maxBacklog }: ResolvedWriteBehindOptions<T>, decode: (bytes: Buffer) => T): DeadLetters<T> {
  const { page, each } = pagesOfLetters({
    plugin: 'cache',
    partitions,
    size: async partition => (await store.state(partition)).deadLetters,
    list: store.deadLetters
  })

  function read ({ letter: { id, writeId, key, value, reason, given }, partition }: { letter: StoredDeadLetter, partition: number }): DeadLetter<T> {
    const letter = { id: `${id}.${partition}`, writeId: `${writeId}.${partition}`, key, reason, attempts: given, diedAt: timeOfId(id) }
    try {
      return { ...letter, value: decode(value) }
    } catch {
      return { ...letter, value: undefined }
    }
  }

  return {
    deadLetters: async given => (await page(given)).map(read),
    replay: ids => each(ids, (partition, page) => store.replay(partition, page, maxBacklog)),
    discard: ids => each(ids, (partition, page) => store.discard(partition, page))
  }
}
