import { setImmediate as nextTurn } from 'node:timers/promises'
import { steadyTime, type Clock } from '../../shared/plugin/clock.js'
import { createMemoryQueue, createMemoryRegistry, type MemoryQueue } from '../../shared/work-queue/memory-queue.js'
import type { InstanceRegistry, StoredMessage, TakenMessage } from '../../shared/work-queue/queue.js'
import { createIds, timeOfId } from '../../shared/work-queue/stream-ids.js'
import type { ResolvedStreamOptions } from './options.js'
import { groupState, indexAfter, type AppendNotifier, type StreamStore } from './store.js'

interface Group {
  readonly queue: MemoryQueue
  /** Dead letters that are replayed. */
  readonly again: TakenMessage[]
  /** The last event that was taken; undefined until the group is created. */
  position: { id: string, n: number } | undefined
  lost: number
}

interface Partition {
  log: StoredMessage[]
  count: number
  groups: Map<string, Group>
}

/**
 * Stores events in this process: they are lost when it ends. A call that reads many of them lets other work of the
 * process run first.
 */
export function createMemoryStreams (
  { partitions, maxLength, maxAge, maxDeadLetters }: ResolvedStreamOptions, clock: Clock
): { store: StreamStore, notifier: AppendNotifier } {
  const all = Array.from({ length: partitions }, (): Partition => ({ log: [], count: 0, groups: new Map() }))
  const registries = new Map<string, InstanceRegistry>()
  const listeners = new Set<(partition: number | undefined) => void>()
  const time = steadyTime(clock)
  const createId = createIds(clock)

  function at (index: number): Partition {
    const partition = all[index]
    if (partition === undefined) throw new RangeError(`no partition ${index}`)
    return partition
  }

  function groupOf (index: number, name: string): Group {
    const partition = at(index)
    const known = partition.groups.get(name)
    if (known !== undefined) return known
    const group: Group = {
      again: [],
      position: undefined,
      lost: 0,
      queue: createMemoryQueue({
        clock,
        createId,
        maxDeadLetters,
        take: count => takeFrom(partition, group, count),
        replay ({ messageId, n, key, value }) {
          group.again.push({ id: messageId, n, key, value, source: 'again', entryId: createId(), deliveryCount: 0 })
          notify(index)
          return true
        }
      })
    }
    partition.groups.set(name, group)
    return group
  }

  function start ({ log, count }: Partition, from: '0' | '$'): { id: string, n: number } {
    return from === '$' ? { id: log.at(-1)?.id ?? '0-0', n: count } : { id: '0-0', n: (log[0]?.n ?? count + 1) - 1 }
  }

  function takeFrom (partition: Partition, group: Group, count: number): TakenMessage[] {
    const taken = group.again.splice(0, count)
    const position = group.position ??= start(partition, '0')
    const first = indexAfter(partition.log, position.id)
    const next = partition.log.slice(first, first + count - taken.length)
    const last = next.at(-1)
    if (last !== undefined) {
      group.lost += Math.max(0, last.n - position.n - next.length)
      group.position = last
    }
    for (const event of next) taken.push({ ...event, source: 'log', entryId: event.id, deliveryCount: 0 })
    return taken
  }

  function trim (partition: Partition): void {
    const oldest = time() - maxAge
    const first = partition.log.findIndex(({ id }) => timeOfId(id) >= oldest)
    partition.log.splice(0, Math.max(first === -1 ? partition.log.length : first, partition.log.length - maxLength))
  }

  const notify = (partition: number) => queueMicrotask(() => { for (const listener of listeners) listener(partition) })

  const store: StreamStore = {
    async append (index, key, value) {
      const partition = at(index)
      const event = { id: createId(), n: ++partition.count, key, value }
      partition.log.push(event)
      trim(partition)
      notify(index)
      return event
    },
    async range (index, after, count) {
      await nextTurn()
      const { log } = at(index)
      const first = indexAfter(log, after)
      return log.slice(first, first + count)
    },
    async ensureGroup (index, name, from) { groupOf(index, name).position ??= start(at(index), from) },
    queue: (index, name) => groupOf(index, name).queue,
    instances (group) {
      const registry = registries.get(group) ?? createMemoryRegistry(clock)
      registries.set(group, registry)
      return registry
    },
    async state (index) {
      const { log, count, groups } = at(index)
      const first = log[0]?.n ?? count + 1
      return {
        length: log.length,
        count,
        last: log.at(-1)?.id,
        groups: [...groups].flatMap(([group, { position, lost, queue: { taken, dead } }]) => position === undefined
          ? []
          : [{ group, pending: taken.size, deadLetters: dead.length, ...groupState(count, first, position.n, lost) }])
      }
    }
  }
  const notifier: AppendNotifier = {
    listen (onAppend) {
      listeners.add(onAppend)
      return () => { listeners.delete(onAppend) }
    }
  }
  return { store, notifier }
}
