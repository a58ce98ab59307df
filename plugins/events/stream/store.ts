import { compareIds } from '../../shared/work-queue/stream-ids.js'

/** The log, or what a group replays. */
export type Source = 'log' | 'again'

/** An event as it is stored. */
export interface StoredEvent {
  /** `{milliseconds}-{number}`, greater than those of all events of its partition that were appended before. */
  readonly id: string
  /** Its place in the count of all events of its partition, from 1, without holes; NaN where somebody else wrote it. */
  readonly n: number
  readonly key: string | undefined
  readonly value: Buffer
}

/** An event as a group gets it. */
export interface TakenEvent extends StoredEvent {
  readonly source: Source
  /** The id in its source. */
  readonly entry: string
  /** How often it may have been given, as far as the store knows. */
  readonly deliveryCount: number
}

export interface StoredEventDeadLetter extends StoredEvent {
  /** Its own, in the order in which they died. */
  readonly id: string
  /** The event's. */
  readonly eventId: string
  readonly reason: string
  readonly deliveryCount: number
}

export interface Page<E> {
  readonly events: E[]
  /** Where to go on; undefined: there are no more. */
  readonly next: string | undefined
}

export interface StreamPartitionState {
  length: number
  /** How many events were ever appended. */
  count: number
  /** The last event's id; undefined where none was ever appended. */
  last: string | undefined
  groups: Array<{ group: string, lag: number, pending: number, lost: number, deadLetters: number }>
}

/** What a group's holder of a lease names itself by. */
export interface Holder {
  readonly partition: number
  readonly group: string
  readonly token: string
}

/**
 * Where events lie, in partitions, and how far groups are. One instance at a time may work for a group on a partition: the one that
 * holds the lease. What a holder does says `undefined` or `false` where the lease is not its own any more; then nothing was done.
 */
export interface StreamStore {
  append (partition: number, key: string | undefined, value: Buffer): Promise<{ id: string, n: number }>
  /** The events after an id, the oldest first. */
  range (partition: number, after: string, count: number): Promise<StoredEvent[]>

  /** Makes a group where there is none. */
  found (partition: number, group: string, from: '0' | '$'): Promise<void>
  /** Tells that an instance lives for `ms` more. @returns how many do */
  heartbeat (group: string, instance: string, ms: number): Promise<number>
  deregister (group: string, instance: string): Promise<void>
  /** @returns the fence, or undefined where somebody else has the lease */
  acquire (holder: Holder, ms: number): Promise<number | undefined>
  renew (holder: Holder, ms: number): Promise<boolean>
  release (holder: Holder): Promise<void>

  /** Those that were taken and are not done, the oldest first. */
  pending (holder: Holder, source: Source, after: string | undefined, count: number): Promise<Page<TakenEvent> | undefined>
  /** The next ones that were not taken yet: of what is replayed, then of the log. */
  take (holder: Holder, from: '0' | '$', count: number): Promise<TakenEvent[] | undefined>
  /** Has the store know how often an event was given. */
  mark (holder: Holder, event: TakenEvent, given: number): Promise<boolean>
  ack (holder: Holder, source: Source, entries: readonly string[]): Promise<boolean>
  /** Makes a dead letter of an event, also where it was trimmed. @returns how many older dead letters had to go */
  deadLetter (holder: Holder, event: TakenEvent, reason: string, given: number): Promise<number | undefined>

  state (partition: number): Promise<StreamPartitionState>
  /** @param from - an id, or `-`: the first one */
  deadLetters (partition: number, group: string, from: string, count: number): Promise<StoredEventDeadLetter[]>
  deadLetterCount (partition: number, group: string): Promise<number>
  /** Has the group take dead letters anew. @returns how many */
  replay (partition: number, group: string, ids: readonly string[]): Promise<number>
  discard (partition: number, group: string, ids: readonly string[]): Promise<number>
}

/** Tells of new events; where that was interrupted, of all partitions. */
export interface AppendNotifier {
  /** @param onRing - gets the partition, or undefined: any */
  listen (onRing: (partition: number | undefined) => void): () => void
}

/**
 * How far behind a group is, and what it lost, of the numbers of events.
 *
 * @param count - of the last event that was appended
 * @param first - of the first one that is kept
 * @param read - of the last one that the group took
 * @param lost - how many it had missed until then
 */
export function groupState (count: number, first: number, read: number, lost: number): { lag: number, lost: number } {
  const missed = Math.max(0, first - 1 - read) || 0
  return { lag: Math.max(0, count - read - missed), lost: lost + missed }
}

/** Where those begin that come after an id, in order. */
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
