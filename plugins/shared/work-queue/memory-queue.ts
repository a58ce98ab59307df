import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Clock } from '../plugin/clock.js'
import type { Milliseconds } from '../plugin/units.js'
import { nameOf } from './in-flight.js'
import type { InstanceRegistry, PartitionQueue, StoredDeadLetter, TakenMessage } from './queue.js'
import { compareIds } from './stream-ids.js'

interface MemoryQueueOptions {
  clock: Clock
  createId: () => string
  maxDeadLetters: number
  /** Removes and returns up to `count` messages that wait. */
  take (count: number): TakenMessage[]
  /** Makes a message of a dead letter. Returns false where the queue is full. */
  replay (letter: StoredDeadLetter): boolean
}

export interface MemoryQueue extends PartitionQueue {
  /** Messages that were taken and not acknowledged, in order. */
  readonly taken: ReadonlyMap<string, TakenMessage>
  readonly dead: readonly StoredDeadLetter[]
}

/** Returns a partition in this process, whose messages are lost when the process ends. */
export function createMemoryQueue ({ clock, createId, maxDeadLetters, take, replay }: MemoryQueueOptions): MemoryQueue {
  const taken = new Map<string, TakenMessage>()
  let dead: StoredDeadLetter[] = []
  let lease: { token: string, until: number } | undefined
  let fence = 0
  const isLeased = () => lease !== undefined && lease.until > clock.monotonic()
  const isOwnedBy = (token: string) => lease?.token === token && isLeased()
  const extend = (token: string, ms: Milliseconds) => { lease = { token, until: clock.monotonic() + ms } }

  return {
    taken,
    get dead () { return dead },

    async acquire (token, ms) {
      if (isLeased()) return undefined
      extend(token, ms)
      return ++fence
    },
    async renew (token, ms) {
      const isOwned = isOwnedBy(token)
      if (isOwned) extend(token, ms)
      return isOwned
    },
    async release (token) { if (isOwnedBy(token)) lease = undefined },

    async pending (token, after, count) {
      if (!isOwnedBy(token)) return undefined
      const entries = [...taken]
      const start = after === undefined ? 0 : entries.findIndex(([name]) => name === after) + 1
      const page = entries.slice(start, start + count)
      const next = page.length === count ? page.at(-1)?.[0] : undefined
      return { messages: page.map(([, message]) => message), next }
    },
    // Other work of this process runs first, so that a queue with many messages does not block it.
    async take (token, count) {
      await nextTurn()
      if (!isOwnedBy(token)) return undefined
      const messages = take(count)
      for (const message of messages) taken.set(nameOf(message), { ...message, deliveryCount: 1 })
      return messages
    },
    async mark (token, message, deliveryCount) {
      const isOwned = isOwnedBy(token)
      if (isOwned) taken.set(nameOf(message), { ...message, deliveryCount })
      return isOwned
    },
    async ack (token, messages) {
      const isOwned = isOwnedBy(token)
      if (isOwned) for (const message of messages) taken.delete(nameOf(message))
      return isOwned
    },
    async deadLetter (token, message, reason, deliveryCount) {
      if (!isOwnedBy(token)) return undefined
      if (!taken.delete(nameOf(message))) return 0
      const { id: messageId, n, key, value } = message
      dead.push({ id: createId(), messageId, n, key, value, reason, deliveryCount })
      return dead.splice(0, Math.max(0, dead.length - maxDeadLetters)).length
    },

    deadLetters: async (from, count) =>
      dead.filter(({ id }) => from === '-' || compareIds(id, from) >= 0).slice(0, count),
    deadLetterCount: async () => dead.length,
    async replay (ids) {
      const before = dead.length
      for (const id of ids) {
        const letter = dead.find(each => each.id === id)
        if (letter === undefined) continue
        if (!replay(letter)) break
        dead = dead.filter(each => each !== letter)
      }
      return before - dead.length
    },
    async discard (ids) {
      const before = dead.length
      dead = dead.filter(({ id }) => !ids.includes(id))
      return before - dead.length
    }
  }
}

/** Returns a registry of the instances in this process. */
export function createMemoryRegistry (clock: Clock): InstanceRegistry {
  const instances = new Map<string, number>()
  return {
    async heartbeat (instance, ms) {
      const now = clock.monotonic()
      for (const [each, until] of instances) if (until <= now) instances.delete(each)
      return instances.set(instance, now + ms).size
    },
    async deregister (instance) { instances.delete(instance) }
  }
}
