import { invalidOptionError } from '../../shared/errors.js'
import { readOptions } from '../../shared/options.js'
import type { ResolvedWriteBehindOptions } from './options.js'
import { compareIds, timeOfId, type BehindStore, type StoredDeadLetter } from './store.js'

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

type Place = readonly [id: string, partition: number]

const PAGE = 100
const ID = /^(\d{1,16}-\d{1,16})\.(\d{1,2})$/

export function createLetters<T> (store: BehindStore, { partitions, maxBacklog }: ResolvedWriteBehindOptions<T>, decode: (bytes: Buffer) => T): DeadLetters<T> {
  const indices = Array.from({ length: partitions }, (_, index) => index)

  function placeOf (id: unknown): Place {
    const [, own, partition] = (typeof id === 'string' && ID.exec(id)) || []
    if (own !== undefined && Number(partition) < partitions) return [own, Number(partition)]
    throw invalidOptionError('cache', 'id', id, 'the id of a dead letter')
  }

  /** Those of one partition that come after a place, in an order by id and then partition. */
  async function listOf (partition: number, after: Place | undefined, count: number) {
    const from = after === undefined ? '-' : partition > after[1] ? after[0] : `(${after[0]}`
    return (await store.deadLetters(partition, from, count)).map(letter => ({ letter, partition }))
  }

  function read ({ letter: { id, writeId, key, value, reason, given }, partition }: { letter: StoredDeadLetter, partition: number }): DeadLetter<T> {
    const letter = { id: `${id}.${partition}`, writeId: `${writeId}.${partition}`, key, reason, attempts: given, diedAt: timeOfId(id) }
    try {
      return { ...letter, value: decode(value) }
    } catch {
      return { ...letter, value: undefined }
    }
  }

  /** Does something with those that are named, or that there are now, in pages, until that does not take all of a page. */
  async function each (ids: readonly string[] | undefined, act: (partition: number, ids: readonly string[]) => Promise<number>): Promise<number> {
    const counts = await Promise.all(indices.map(async partition => {
      const named = ids?.map(placeOf).filter(place => place[1] === partition).map(([id]) => id)
      let left = named?.length ?? (await store.state(partition)).deadLetters
      let count = 0
      for (let at = 0; left > 0; at += PAGE) {
        const page = named?.slice(at, at + PAGE) ?? (await store.deadLetters(partition, '-', Math.min(PAGE, left))).map(({ id }) => id)
        const acted = page.length === 0 ? 0 : await act(partition, page)
        count += acted
        left -= page.length
        if (page.length === 0 || (named === undefined && acted < page.length)) break
      }
      return count
    }))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  return {
    async deadLetters (given = {}) {
      const options = readOptions('cache', given)
      options.onlyKnown(['count', 'after'])
      const count = options.integer('count', 100, { min: 1, max: 1000 })
      const after = given.after === undefined ? undefined : placeOf(given.after)
      const found = (await Promise.all(indices.map(partition => listOf(partition, after, count)))).flat()
      found.sort((a, b) => compareIds(a.letter.id, b.letter.id) || a.partition - b.partition)
      return found.slice(0, count).map(read)
    },
    replay: ids => each(ids, (partition, page) => store.replay(partition, page, maxBacklog)),
    discard: ids => each(ids, (partition, page) => store.discard(partition, page))
  }
}
