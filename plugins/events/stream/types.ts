import type { BackoffOptions } from '../../shared/plugin/backoff.js'
import type { DeadLetters } from '../../shared/work-queue/dead-letters.js'
import type { Duration } from '../../shared/plugin/duration.js'

/** An event of a stream. */
export interface StreamEvent<T> {
  /** Opaque. It is the event's own, and a cursor: `read({ after: id })` goes on after it. See {@link EventStream.read} for several partitions. */
  id: string
  key: string | undefined
  data: T
  /** When it was appended, by Redis's clock: milliseconds since the epoch. */
  appendedAt: number
  /**
   * Only where it is read: events before it, after the cursor or the event before, were trimmed or cannot be read. Or it is the first one after
   * `read()` was called while the store could not be asked for where the stream ended.
   */
  gap?: true
}

export interface EventStream<T> {
  /**
   * Resolves with the event's id when the event lies in the store.
   *
   * @param data - anything that JSON can tell
   * @param options.key - events of a key, 1 to 1,024 characters, are handled one after another, in order; those without one in any order
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503): refused, or no answer in time; without an answer it may have been appended
   * @throws `FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE`, `FST_REDIS_SUITE_EVENTS_INVALID_OPTION` for a key
   */
  append (data: T, options?: { key?: string }): Promise<string>
  /**
   * History after the cursor, then what is appended, until `signal` fires or the app closes. While the store is out of reach it waits, and
   * goes on after the last event. With several partitions order is that of each key, and an id says how far each partition was read:
   * it is not the one that `append` and `consume` tell of the same event.
   *
   * @param options.after - an event's id, `'0'` for all there is, undefined for what is appended from now on. With several
   *   partitions the id of `append` or `consume` is exact for its own one; others are read from the same time on
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_CURSOR` (400), at once
   */
  read (options?: ReadOptions): AsyncIterable<StreamEvent<T>>
  /**
   * Has the events handled, at least once each in a group, shared by all instances that consume in it. Resolves when the group exists, or when
   * the store cannot be asked now: then it begins when that can.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`
   */
  consume (options: ConsumeOptions<T>): Promise<Consumer>
  /** @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503) */
  stats (): Promise<StreamStats>
  /** The events that a group gave up. `replay` has that group handle them anew, and no other. */
  deadLetters (group: string): DeadLetters<EventDeadLetter<T>>
}

export interface ReadOptions {
  after?: string | undefined
  signal?: AbortSignal | undefined
}

export interface StreamOptions {
  /**
   * How many partitions the keys are spread over. One instance at a time consumes a partition for a group. It must be the same on all
   * instances.
   *
   * @default 1
   */
  partitions?: number | undefined
  /** How many events are kept, an equal share in each partition. Trimming is approximate: up to a hundred more remain in each. @default 100_000 */
  maxLength?: number | undefined
  /** How long events are kept. Older ones are trimmed when an event is appended, and all of them expire this long after the last one. @default '7 days' */
  maxAge?: Duration | undefined
  /** How long dead letters and the positions of groups are kept after they were last used. @default '30 days' */
  retention?: Duration | undefined
  /** How many dead letters a group keeps, an equal share in each partition. The oldest are dropped, which is logged. @default 10_000 */
  maxDeadLetters?: number | undefined
}

export interface ConsumeOptions<T> {
  /** The name of the group: up to 64 letters, digits and `.`, `_`, `-`. Each group gets every event; its consumers, on all instances, share them. */
  group: string
  /**
   * Handles an event. If it rejects, the event is retried. Events of a key arrive in order, never two at a time, and some of them twice.
   * Stop when `signal` fires.
   */
  handler: (event: StreamEvent<T>, context: HandlerContext) => unknown
  /** How many events this process handles at a time, of different keys. @default 1 */
  concurrency?: number | undefined
  /** How often an event that failed is retried before it becomes a dead letter. @default 5 */
  retries?: number | undefined
  /** How long to wait between attempts: doubled each time, with jitter. @default { min: 100, max: '30s' } */
  backoff?: BackoffOptions | undefined
  /** Whether an event that has used up its retries is kept as a dead letter. Otherwise its id and reason are logged. @default true */
  deadLetter?: boolean | undefined
  /** The position at which a new group begins: the oldest event, or after the newest. @default '0' */
  from?: '0' | '$' | undefined
}

export interface HandlerContext {
  /** How often it has been given, this time included: above 1 it may have been handled before. */
  attempt: number
  /** Fires when another instance may be handling the same keys, and some seconds after the app began to close: stop then. */
  signal: AbortSignal
}

export interface Consumer {
  readonly group: string
  /** How many partitions it works on now. */
  readonly owned: number
  /** Ends after the events at hand, within some seconds, and leaves the rest to others. */
  close (): Promise<void>
}

export interface StreamStats {
  /** How many events are kept. */
  length: number
  groups: Record<string, GroupStats>
}

export interface GroupStats {
  /** Events that are kept and were not given to the group yet. */
  lag: number
  /** Events that were taken and are not done. */
  pending: number
  deadLetters: number
  /** Events that were trimmed before the group had handled them, since it exists. */
  lost: number
}

export interface EventDeadLetter<T> {
  /** Its own: for `after`, `replay` and `discard`. */
  id: string
  /** The event's id. */
  eventId: string
  key: string | undefined
  /** Undefined where it cannot be read. */
  data: T | undefined
  /** The message of the last error. */
  reason: string
  /** How often it was given. */
  attempts: number
  /** When it was given up, by the store's clock: milliseconds since the epoch. */
  diedAt: number
}
