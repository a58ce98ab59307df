import { invalidArgumentError, type PluginName } from '../plugin/errors.js'
import { readOptions } from '../plugin/option-reader.js'
import { compareIds, idAfter } from './stream-ids.js'

/** Where dead letters lie, in partitions; `S` has an id that is unique and in order within its partition. */
export interface DeadLetterStore<S extends { id: string }> {
  plugin: PluginName
  partitions: number
  size (partition: number): Promise<number>
  /** @param from - an id, or `-`: the first one */
  list (partition: number, from: string, count: number): Promise<S[]>
  replay (partition: number, ids: readonly string[]): Promise<number>
  discard (partition: number, ids: readonly string[]): Promise<number>
}

/** What was given up. */
export interface DeadLetters<L> {
  /**
   * The oldest first.
   *
   * @param options.count - the most, 1 to 1,000, default 100
   * @param options.after - the last one's id of the page before
   */
  list (options?: DeadLetterPage): Promise<L[]>
  /** Has them done anew. @param ids - default all that there are now @returns how many */
  replay (ids?: readonly string[]): Promise<number>
  /** Forgets them. @param ids - default all that there are now @returns how many there were */
  discard (ids?: readonly string[]): Promise<number>
}

export interface DeadLetterPage {
  /** The most, 1 to 1,000. @default 100 */
  count?: number | undefined
  /** The last one's id of the page before. */
  after?: string | undefined
}

type Place = readonly [id: string, partition: number]

const PAGE = 100
const ID = /^(\d{1,16}-\d{1,16})\.(\d{1,2})$/

/**
 * Dead letters of all partitions, under ids `{id}.{partition}`.
 *
 * @param read - makes what is listed of what is stored
 */
export function createDeadLetters<S extends { id: string }, L> (
  { plugin, partitions, size, list, replay, discard }: DeadLetterStore<S>, read: (letter: S, partition: number) => L
): DeadLetters<L> {
  const indices = Array.from({ length: partitions }, (_, index) => index)

  function placeOf (id: unknown): Place {
    const [, own, partition] = (typeof id === 'string' && ID.exec(id)) || []
    if (own !== undefined && Number(partition) < partitions) return [own, Number(partition)]
    throw invalidArgumentError(plugin, 'id', id, 'the id of a dead letter')
  }

  /** Those of one partition that come after a place, in an order by id and then partition. */
  async function listOf (partition: number, after: Place | undefined, count: number) {
    const from = after === undefined ? '-' : partition > after[1] ? after[0] : idAfter(after[0])
    return (await list(partition, from, count)).map(letter => ({ letter, partition }))
  }

  /** Does something with those that are named, or that there are now, in pages, until that does not take all of a page. @returns with how many */
  async function each (ids: readonly string[] | undefined, act: (partition: number, ids: readonly string[]) => Promise<number>): Promise<number> {
    const counts = await Promise.all(indices.map(async partition => {
      const named = ids?.map(placeOf).filter(place => place[1] === partition).map(([id]) => id)
      let left = named?.length ?? await size(partition)
      let count = 0
      for (let at = 0; left > 0; at += PAGE) {
        const page = named?.slice(at, at + PAGE) ?? (await list(partition, '-', Math.min(PAGE, left))).map(({ id }) => id)
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
    async list (given = {}) {
      const options = readOptions(plugin, given)
      options.onlyKnown(['count', 'after'])
      const count = options.integer('count', 100, { min: 1, max: 1000 })
      const after = given.after === undefined ? undefined : placeOf(given.after)
      const found = (await Promise.all(indices.map(partition => listOf(partition, after, count)))).flat()
      found.sort((a, b) => compareIds(a.letter.id, b.letter.id) || a.partition - b.partition)
      return found.slice(0, count).map(({ letter, partition }) => read(letter, partition))
    },
    replay: ids => each(ids, replay),
    discard: ids => each(ids, discard)
  }
}
