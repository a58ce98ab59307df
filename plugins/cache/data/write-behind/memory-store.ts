import { steadyTime, type Clock } from '../../../shared/plugin/clock.js'
import { createMemoryQueue, createMemoryRegistry } from '../../../shared/work-queue/memory-queue.js'
import type { TakenMessage } from '../../../shared/work-queue/queue.js'
import { createIds } from '../../../shared/work-queue/stream-ids.js'
import type { ResolvedWriteBehindOptions } from './options.js'
import type { WriteBehindStore } from './store.js'

type Limits = Pick<ResolvedWriteBehindOptions<unknown>, 'partitions' | 'maxBacklog' | 'maxDeadLetters'>

/** Stores accepted writes in this process: they are lost when it ends. */
export function createMemoryWriteBehindStore (limits: Limits, clock: Clock): WriteBehindStore {
  const { partitions, maxBacklog, maxDeadLetters } = limits
  const time = steadyTime(clock)
  const createId = createIds(clock)

  function createPartition () {
    const waiting: TakenMessage[] = []
    function add (key: string | undefined, value: Buffer): { id: string, backlog: number } | undefined {
      const backlog = waiting.length + queue.taken.size
      if (backlog >= maxBacklog) return undefined
      const id = createId()
      waiting.push({ id, n: NaN, key, value, source: 'log', entryId: id, deliveryCount: 0 })
      return { id, backlog: backlog + 1 }
    }
    const queue = createMemoryQueue({
      clock,
      createId,
      maxDeadLetters,
      take: count => waiting.splice(0, count),
      replay: ({ key, value }) => add(key, value) !== undefined
    })
    return { waiting, queue, add }
  }

  const all = Array.from({ length: partitions }, createPartition)

  function at (index: number): ReturnType<typeof createPartition> {
    const partition = all[index]
    if (partition === undefined) throw new RangeError(`no partition ${index}`)
    return partition
  }

  return {
    instances: createMemoryRegistry(clock),
    add: async (index, key, value) => at(index).add(key, value),
    queue: index => at(index).queue,
    async state (index) {
      const { waiting, queue: { taken, dead } } = at(index)
      const ids = [...taken.values(), ...waiting].map(({ id }) => id)
      return { backlog: ids.length, deadLetters: dead.length, first: ids[0], last: ids.at(-1), now: time() }
    }
  }
}
