import { invalidArgumentError, type PluginName } from '../plugin/errors.js'
import { integer, unchecked } from '../plugin/option-kinds.js'
import { resolveOptions, type OptionTable } from '../plugin/option-table.js'
import type { PartitionQueue, StoredDeadLetter } from './queue.js'
import { compareIds, idAfter, timeOfId } from './stream-ids.js'

/** The messages that were given up. */
export interface DeadLetters<L> {
  /** Lists dead letters, the oldest first. */
  list (options?: DeadLetterPage): Promise<L[]>
  /** Has dead letters delivered again. Returns how many. @param ids - default all */
  replay (ids?: readonly string[]): Promise<number>
  /** Deletes dead letters. Returns how many existed. @param ids - default all */
  discard (ids?: readonly string[]): Promise<number>
}

/** Which dead letters are listed. */
export interface DeadLetterPage {
  /** How many to list at most, 1 to 1,000. @default 100 */
  count?: number | undefined
  /** The id of the last dead letter of the page before. */
  after?: string | undefined
}

interface DeadLettersOptions<V, L> {
  plugin: PluginName
  /** One for each partition. */
  queues: readonly PartitionQueue[]
  /** @throws where the bytes cannot be decoded */
  decode (value: Buffer): V
  /** @param common - the fields that all dead letters have */
  toLetter (common: LetterFields, value: V | undefined, letter: StoredDeadLetter, partition: number): L
  /** Calls the store. @default without a wrapper */
  run?: <R>(operation: () => Promise<R>) => Promise<R>
}

interface LetterFields {
  id: string
  reason: string
  attempts: number
  diedAt: number
}

type Act = (queue: PartitionQueue, ids: readonly string[]) => Promise<number>
type Place = readonly [id: string, partition: number]

const PAGE_OPTIONS = {
  count: integer(100, { min: 1, max: 1000 }),
  after: unchecked<string>('string')
} satisfies OptionTable<DeadLetterPage>

const PAGE_SIZE = 100
const ID = /^(\d{1,16}-\d{1,16})\.(\d{1,2})$/

/** Reads the dead letters of all partitions, under ids `{id}.{partition}`. */
export function createDeadLetters<V, L> (
  { plugin, queues, decode, toLetter, run = operation => operation() }: DeadLettersOptions<V, L>
): DeadLetters<L> {
  function placeOf (id: unknown): Place {
    const [, own, partition] = (typeof id === 'string' && ID.exec(id)) || []
    if (own !== undefined && Number(partition) < queues.length) return [own, Number(partition)]
    throw invalidArgumentError(plugin, 'id', id, 'the id of a dead letter')
  }

  /** Returns the dead letters of a partition after a place, in the order of id and then partition. */
  async function listAfter (queue: PartitionQueue, partition: number, after: Place | undefined, count: number) {
    const from = after === undefined ? '-' : partition > after[1] ? after[0] : idAfter(after[0])
    return (await run(() => queue.deadLetters(from, count))).map(letter => ({ letter, partition }))
  }

  /**
   * Acts on the named dead letters, or on all there are now, page by page until one is not acted on as a whole. Returns
   * how many were.
   */
  async function actOn (ids: readonly string[] | undefined, act: Act): Promise<number> {
    const counts = await Promise.all(queues.map(async (queue, partition) => {
      const named = ids?.map(placeOf).filter(place => place[1] === partition).map(([id]) => id)
      let left = named?.length ?? await run(() => queue.deadLetterCount())
      let count = 0
      for (let at = 0; left > 0; at += PAGE_SIZE) {
        const list = () => queue.deadLetters('-', Math.min(PAGE_SIZE, left))
        const page = named?.slice(at, at + PAGE_SIZE) ?? (await run(list)).map(({ id }) => id)
        const acted = page.length === 0 ? 0 : await run(() => act(queue, page))
        count += acted
        left -= page.length
        if (page.length === 0 || (named === undefined && acted < page.length)) break
      }
      return count
    }))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  function letterOf (letter: StoredDeadLetter, partition: number): L {
    const { id, reason, deliveryCount } = letter
    const common = { id: `${id}.${partition}`, reason, attempts: deliveryCount, diedAt: timeOfId(id) }
    let value: V | undefined
    try {
      value = decode(letter.value)
    } catch {
      // A dead letter may be one because it cannot be decoded.
    }
    return toLetter(common, value, letter, partition)
  }

  return {
    async list (page = {}) {
      const { count, after: id } = resolveOptions(plugin, PAGE_OPTIONS, page)
      const after = id === undefined ? undefined : placeOf(id)
      const lists = await Promise.all(queues.map((queue, partition) => listAfter(queue, partition, after, count)))
      const found = lists.flat()
      found.sort((a, b) => compareIds(a.letter.id, b.letter.id) || a.partition - b.partition)
      return found.slice(0, count).map(({ letter, partition }) => letterOf(letter, partition))
    },
    replay: ids => actOn(ids, (queue, page) => queue.replay(page)),
    discard: ids => actOn(ids, (queue, page) => queue.discard(page))
  }
}
