import { steadyTime, systemClock, type Clock } from '../../../shared/plugin/clock.js'
import { compareIds, createIds } from '../../../shared/work-queue/stream-ids.js'
import type { WriteBehindStore, StoredDeadLetter, StoredWrite } from './store.js'

interface Lease {
  token: string
  until: number
}

interface Partition {
  lease: Lease | undefined
  waiting: StoredWrite[]
  /** Ids and how often they were given. */
  taken: Map<string, number>
  dead: StoredDeadLetter[]
}

/** Keeps accepted writes in this process: they end with it. */
export function createMemoryWriteBehindStore (partitions: number, clock: Clock = systemClock): WriteBehindStore {
  const all = Array.from({ length: partitions }, (): Partition => ({ lease: undefined, waiting: [], taken: new Map(), dead: [] }))
  const instances = new Map<string, number>()
  let fence = 0
  const time = steadyTime(clock)
  const nextId = createIds(clock)

  function at (index: number): Partition {
    const partition = all[index]
    if (partition === undefined) throw new RangeError(`no partition ${index}`)
    return partition
  }

  function held (index: number, token: string): Partition | undefined {
    const partition = at(index)
    const { lease } = partition
    return lease?.token === token && lease.until > clock.monotonic() ? partition : undefined
  }

  function remove (partition: Partition, ids: readonly string[]): void {
    const gone = new Set(ids)
    partition.waiting = partition.waiting.filter(({ id }) => !gone.has(id))
    for (const id of ids) partition.taken.delete(id)
  }

  return {
    async add (index, key, value, most) {
      const { waiting } = at(index)
      if (waiting.length >= most) return undefined
      const id = nextId()
      waiting.push({ id, key, value, deliveryCount: 0 })
      return { id, backlog: waiting.length }
    },
    async heartbeat (instance, ms) {
      const now = clock.monotonic()
      for (const [each, until] of instances) if (until <= now) instances.delete(each)
      instances.set(instance, now + ms)
      return instances.size
    },
    async deregister (instance) { instances.delete(instance) },

    async acquire (index, token, ms) {
      const partition = at(index)
      if (partition.lease !== undefined && partition.lease.until > clock.monotonic()) return undefined
      partition.lease = { token, until: clock.monotonic() + ms }
      return ++fence
    },
    async renew (index, token, ms) {
      const partition = held(index, token)
      if (partition) partition.lease = { token, until: clock.monotonic() + ms }
      return partition !== undefined
    },
    async release (index, token) {
      const partition = held(index, token)
      if (partition) partition.lease = undefined
    },

    async pending (index, token, after, count) {
      const partition = held(index, token)
      return partition?.waiting
        .filter(({ id }) => partition.taken.has(id) && (after === undefined || compareIds(id, after) > 0))
        .slice(0, count)
        .map(write => ({ ...write, given: partition.taken.get(write.id) ?? 0 }))
    },
    async take (index, token, count) {
      const partition = held(index, token)
      const next = partition?.waiting.filter(({ id }) => !partition.taken.has(id)).slice(0, count)
      for (const { id } of next ?? []) partition?.taken.set(id, 1)
      return next
    },
    async mark (index, token, id, given) {
      const partition = held(index, token)
      partition?.taken.set(id, given)
      return partition !== undefined
    },
    async ack (index, token, ids) {
      const partition = held(index, token)
      if (partition) remove(partition, ids)
      return partition !== undefined
    },
    async deadLetter (index, token, id, { reason, given, covered, most }) {
      const partition = held(index, token)
      if (partition === undefined) return undefined
      const write = partition.waiting.find(each => each.id === id)
      remove(partition, [id, ...covered])
      if (write === undefined) return 0
      partition.dead.push({ id: nextId(), writeId: id, key: write.key, value: write.value, reason, deliveryCount: given })
      return partition.dead.splice(0, Math.max(0, partition.dead.length - most)).length
    },

    async state (index) {
      const { waiting, dead } = at(index)
      return { backlog: waiting.length, deadLetters: dead.length, first: waiting[0]?.id, last: waiting.at(-1)?.id, now: time() }
    },
    async deadLetters (index, from, count) {
      const follows = (id: string) => from === '-' || compareIds(id, from) >= 0
      return at(index).dead.filter(({ id }) => follows(id)).slice(0, count)
    },
    async replay (index, ids, most) {
      const partition = at(index)
      let count = 0
      for (const id of ids) {
        const found = partition.dead.find(each => each.id === id)
        if (partition.waiting.length >= most) break
        if (found === undefined) continue
        partition.waiting.push({ id: nextId(), key: found.key, value: found.value, deliveryCount: 0 })
        partition.dead = partition.dead.filter(each => each !== found)
        count++
      }
      return count
    },
    async discard (index, ids) {
      const partition = at(index)
      const before = partition.dead.length
      partition.dead = partition.dead.filter(({ id }) => !ids.includes(id))
      return before - partition.dead.length
    }
  }
}
