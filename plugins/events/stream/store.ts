import type { InstanceRegistry, PartitionQueue, StoredMessage } from '../../shared/work-queue/queue.js'
import { compareIds } from '../../shared/work-queue/stream-ids.js'

interface StreamPartitionState {
  length: number
  /** How many events were ever appended. */
  count: number
  /** The id of the last event; undefined where none was ever appended. */
  last: string | undefined
  groups: Array<{ group: string, lag: number, pending: number, lost: number, deadLetters: number }>
}

/** Stores events, in partitions, and the position of each group. */
export interface StreamStore {
  append (partition: number, key: string | undefined, value: Buffer): Promise<{ id: string, n: number }>
  /** Returns the events after an id, the oldest first. */
  range (partition: number, after: string, count: number): Promise<StoredMessage[]>
  /** Creates a group where it does not exist. */
  ensureGroup (partition: number, group: string, from: '0' | '$'): Promise<void>
  /** Returns the queue of a group. @param from - where a group that was lost begins. @default '0' */
  queue (partition: number, group: string, from?: '0' | '$'): PartitionQueue
  instances (group: string): InstanceRegistry
  state (partition: number): Promise<StreamPartitionState>
}

/** Notifies of new events; after an interruption, of all partitions. */
export interface AppendNotifier {
  /** @param onAppend - called with the partition, or undefined for any */
  listen (onAppend: (partition: number | undefined) => void): () => void
}

/**
 * Returns how far a group is behind, and how many events it lost, from the numbers of events.
 *
 * @param count - of the last event that was appended
 * @param first - of the oldest event that is stored
 * @param read - of the last event that the group took
 * @param lost - how many events the group had lost by then
 */
export function groupState (count: number, first: number, read: number, lost: number): { lag: number, lost: number } {
  const missed = Math.max(0, first - 1 - read) || 0
  return { lag: Math.max(0, count - read - missed), lost: lost + missed }
}

/** Returns the index of the first event after an id, in a list in order. */
export function indexAfter (events: ReadonlyArray<{ readonly id: string }>, id: string): number {
  let [low, high] = [0, events.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    const event = events[middle]
    if (event !== undefined && compareIds(event.id, id) > 0) high = middle
    else low = middle + 1
  }
  return low
}
