import { setImmediate as turn } from 'node:timers/promises'
import { steadyTime, type Clock } from '../../shared/plugin/clock.js'
import { compareIds, createIds } from '../../shared/work-queue/stream-ids.js'
import type { ResolvedStreamOptions } from './options.js'
import { groupState, indexAfter, type AppendNotifier, type Holder, type StoredEvent, type StoredEventDeadLetter, type StreamStore, type TakenEvent } from './store.js'

interface Group {
  lease: { token: string, until: number } | undefined
  /** Id of the last event that was taken, and its number. */
  last: string
  read: number
  lost: number
  /** Those that were taken, by source and id there. */
  pending: Map<string, TakenEvent>
  again: TakenEvent[]
  dead: StoredEventDeadLetter[]
}

interface Partition {
  log: StoredEvent[]
  count: number
  groups: Map<string, Group>
}

/** Keeps events in this process: they end with it. Who goes through many lets others have their turn. */
export function createMemoryStreams (
  { partitions, maxLength, maxAge, maxDeadLetters }: ResolvedStreamOptions, clock: Clock
): { store: StreamStore, bell: AppendNotifier } {
  const all = Array.from({ length: partitions }, (): Partition => ({ log: [], count: 0, groups: new Map() }))
  const instances = new Map<string, Map<string, number>>()
  const listeners = new Set<(partition: number | undefined) => void>()
  let fence = 0
  const time = steadyTime(clock)
  const nextId = createIds(clock)

  function at (index: number): Partition {
    const partition = all[index]
    if (partition === undefined) throw new RangeError(`no partition ${index}`)
    return partition
  }

  function groupOf (index: number, name: string, from: '0' | '$' = '0'): Group {
    const { log, count, groups } = at(index)
    const newest = from === '$' ? log.at(-1) : undefined
    const read = from === '$' ? count : (log[0]?.n ?? count + 1) - 1
    const group = groups.get(name) ?? { lease: undefined, last: newest?.id ?? '0-0', read, lost: 0, pending: new Map(), again: [], dead: [] }
    groups.set(name, group)
    return group
  }

  function held ({ partition, group: name, token }: Holder): Group | undefined {
    const group = at(partition).groups.get(name)
    return group?.lease?.token === token && group.lease.until > clock.monotonic() ? group : undefined
  }

  function trim (partition: Partition): void {
    const oldest = time() - maxAge
    const fresh = partition.log.findIndex(({ id }) => Number.parseInt(id, 10) >= oldest)
    partition.log.splice(0, Math.max(fresh === -1 ? partition.log.length : fresh, partition.log.length - maxLength))
  }

  function takeFrom (partition: Partition, group: Group, count: number): TakenEvent[] {
    const again = group.again.splice(0, count)
    const start = indexAfter(partition.log, group.last)
    const next = partition.log.slice(start, start + count - again.length)
    const newest = next.at(-1)
    if (newest !== undefined) {
      group.lost += Math.max(0, newest.n - group.read - next.length)
      group.last = newest.id
      group.read = newest.n
    }
    const taken = [...again, ...next.map((event): TakenEvent => ({ ...event, source: 'log', entry: event.id, deliveryCount: 0 }))]
    for (const event of taken) group.pending.set(`${event.source} ${event.entry}`, { ...event, deliveryCount: 1 })
    return taken
  }

  const ring = (partition: number) => queueMicrotask(() => { for (const listener of listeners) listener(partition) })

  const store: StreamStore = {
    async append (index, key, value) {
      const partition = at(index)
      const event = { id: nextId(), n: ++partition.count, key, value }
      partition.log.push(event)
      trim(partition)
      ring(index)
      return event
    },
    async range (index, after, count) {
      await turn()
      const { log } = at(index)
      const start = indexAfter(log, after)
      return log.slice(start, start + count)
    },

    async found (index, group, from) { groupOf(index, group, from) },
    async heartbeat (group, instance, ms) {
      const now = clock.monotonic()
      const living = new Map([...instances.get(group) ?? []].filter(([, until]) => until > now)).set(instance, now + ms)
      instances.set(group, living)
      return living.size
    },
    async deregister (group, instance) { instances.get(group)?.delete(instance) },

    async acquire ({ partition, group: name, token }, ms) {
      const group = groupOf(partition, name)
      if (group.lease !== undefined && group.lease.until > clock.monotonic()) return undefined
      group.lease = { token, until: clock.monotonic() + ms }
      return ++fence
    },
    async renew (holder, ms) {
      const group = held(holder)
      if (group) group.lease = { token: holder.token, until: clock.monotonic() + ms }
      return group !== undefined
    },
    async release (holder) {
      const group = held(holder)
      if (group) group.lease = undefined
    },

    async pending (holder, source, after, count) {
      const group = held(holder)
      if (group === undefined) return undefined
      const events = [...group.pending.values()].filter(event => event.source === source && (after === undefined || compareIds(event.entry, after) > 0)).slice(0, count)
      return { events, next: events.length === count ? events.at(-1)?.entry : undefined }
    },
    async take (holder, _from, count) {
      await turn()
      const group = held(holder)
      return group && takeFrom(at(holder.partition), group, count)
    },
    async mark (holder, event, given) {
      const group = held(holder)
      group?.pending.set(`${event.source} ${event.entry}`, { ...event, deliveryCount: given })
      return group !== undefined
    },
    async ack (holder, source, entries) {
      const group = held(holder)
      for (const entry of entries) group?.pending.delete(`${source} ${entry}`)
      return group !== undefined
    },
    async deadLetter (holder, { source, entry, ...event }, reason, given) {
      const group = held(holder)
      if (group === undefined) return undefined
      if (!group.pending.delete(`${source} ${entry}`)) return 0
      group.dead.push({ ...event, id: nextId(), eventId: event.id, reason, deliveryCount: given })
      return group.dead.splice(0, group.dead.length - maxDeadLetters).length
    },

    async state (index) {
      const { log, count, groups } = at(index)
      const first = log[0]?.n ?? count + 1
      return {
        length: log.length,
        count,
        last: log.at(-1)?.id,
        groups: [...groups].map(([group, { read, lost, pending, dead }]) =>
          ({ group, pending: pending.size, deadLetters: dead.length, ...groupState(count, first, read, lost) }))
      }
    },
    async deadLetters (index, group, from, count) {
      const follows = (id: string) => from === '-' || compareIds(id, from) >= 0
      return (at(index).groups.get(group)?.dead ?? []).filter(({ id }) => follows(id)).slice(0, count)
    },
    deadLetterCount: async (index, group) => at(index).groups.get(group)?.dead.length ?? 0,
    async replay (index, name, ids) {
      const group = at(index).groups.get(name)
      const chosen = group?.dead.filter(({ id }) => ids.includes(id)) ?? []
      for (const { eventId, n, key, value } of chosen) {
        group?.again.push({ id: eventId, n, key, value, source: 'again', entry: nextId(), deliveryCount: 0 })
      }
      if (group) group.dead = group.dead.filter(letter => !chosen.includes(letter))
      ring(index)
      return chosen.length
    },
    async discard (index, name, ids) {
      const group = at(index).groups.get(name)
      const before = group?.dead.length ?? 0
      if (group) group.dead = group.dead.filter(({ id }) => !ids.includes(id))
      return before - (group?.dead.length ?? 0)
    }
  }
  const bell: AppendNotifier = {
    listen (onRing) {
      listeners.add(onRing)
      return () => { listeners.delete(onRing) }
    }
  }
  return { store, bell }
}
