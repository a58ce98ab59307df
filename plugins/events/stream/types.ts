import type { BackoffOptions } from '../../shared/plugin/backoff.js'
import type { DeadLetters } from '../../shared/work-queue/dead-letter-admin.js'
import type { Duration } from '../../shared/plugin/duration.js'

/** An event of a stream. */
export interface StreamEvent<T> {
  /**
   * The event's opaque id, which is a cursor as well: `read({ after: id })` continues after it. {@link
   * EventStream.read} has more on partitions.
   */
  id: string
  key: string | undefined
  data: T
  /** When it was appended, by Redis's clock: milliseconds since the epoch. */
  appendedAt: number
  /**
   * Set by `read()` only. Events between the cursor or the event before and this one were trimmed or cannot be decoded;
   * or this is the first event, and the store was unavailable when `read()` was called without a cursor.
   */
  gap?: true
}

export interface EventStream<T> {
  /**
   * Appends an event, and resolves with its id once the store has it.
   *
   * @example
   * await orders.append(order, { key: `customer:${order.customer}` })
   *
   * @param data - anything that JSON can represent
   * @param options.key - 1 to 1,024 characters. Events of a key are handled one after another, in order; those without
   *   one in any order
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503): refused, or no reply in time; without a reply the event
   *   may be appended
   * @throws `FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE`, `FST_REDIS_SUITE_EVENTS_INVALID_OPTION` for a key
   */
  append (data: T, options?: { key?: string }): Promise<string>
  /**
   * Reads the history after a cursor, then new events, until `signal` aborts or the app closes. While the store is
   * unavailable it waits, and then continues after the last event. With several partitions only the events of each key
   * are in order, and an id says how far each partition was read: it differs from the id that `append` and `consume`
   * return for the same event.
   *
   * @example
   * for await (const { id, data, gap } of orders.read({ after: lastId, signal })) show(id, data)
   *
   * @param options.after - an event's id, `'0'` for the oldest event, undefined for new events only. With several
   *   partitions the id of `append`
   *   or `consume` is exact for its own partition; the others are read from the same time on
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_CURSOR` (400), at once
   */
  read (options?: ReadOptions): AsyncIterable<StreamEvent<T>>
  /**
   * Consumes the stream in a group: each event is handled at least once, by one of the instances of the group. Resolves
   * when the group exists, or when the store is unavailable: the consumer then starts once it is available.
   *
   * @example
   * await orders.consume({ group: 'mail', handler: async ({ id, data }, { signal }) => await sendMail(data, {
   * idempotencyKey: id, signal }) })
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`
   */
  consume (options: ConsumeOptions<T>): Promise<Consumer>
  /**
   * Returns the length of the stream, and the state of each group.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503)
   */
  stats (): Promise<StreamStats>
  /** Returns the events that a group gave up. `replay` has them handled again, by that group only. */
  deadLetters (group: string): DeadLetters<EventDeadLetter<T>>
}

export interface ReadOptions {
  after?: string | undefined
  signal?: AbortSignal | undefined
}

export interface StreamOptions {
  /**
   * How many partitions the keys are spread over. One instance at a time consumes a partition for a group. It must be
   * the same on all instances.
   *
   * @default 1
   */
  partitions?: number | undefined
  /**
   * How many events are kept, an equal share in each partition. Trimming is approximate: up to a hundred more remain in
   * each.
   *
   * @default 100_000
   */
  maxLength?: number | undefined
  /**
   * How long events are kept. Older ones are trimmed when an event is appended, and all of them expire this long after
   * the last one.
   *
   * @default '7 days'
   */
  maxAge?: Duration | undefined
  /** How long dead letters and the positions of groups are kept after they were last used. @default '30 days' */
  retention?: Duration | undefined
  /**
   * How many dead letters a group keeps, an equal share in each partition. The oldest are dropped, which is logged.
   *
   * @default 10_000
   */
  maxDeadLetters?: number | undefined
}

export interface ConsumeOptions<T> {
  /**
   * The name of the group: up to 64 letters, digits and `.`, `_`, `-`. Each group gets every event; its consumers, on
   * all instances, share them.
   */
  group: string
  /**
   * Handles an event. If it rejects, the event is retried. Events of a key arrive in order, never two at a time, and
   * some of them twice. Stop when `signal` fires.
   */
  handler: (event: StreamEvent<T>, context: HandlerContext) => unknown
  /** How many events this process handles at a time, of different keys. @default 1 */
  concurrency?: number | undefined
  /** How often an event that failed is retried before it becomes a dead letter. @default 5 */
  retries?: number | undefined
  /** How long to wait between attempts: doubled each time, with jitter. @default { min: 100, max: '30s' } */
  backoff?: BackoffOptions | undefined
  /**
   * Whether an event that has used up its retries is kept as a dead letter. Otherwise its id and reason are logged.
   *
   * @default true
   */
  deadLetter?: boolean | undefined
  /** The position at which a new group begins: the oldest event, or after the newest. @default '0' */
  from?: '0' | '$' | undefined
}

export interface HandlerContext {
  /** The number of this attempt, from 1. Above 1 the event may have been handled before. */
  attempt: number
  /**
   * Aborts when another instance may be handling the same keys, and some seconds after the app began to close: stop
   * then.
   */
  signal: AbortSignal
}

export interface Consumer {
  readonly group: string
  /** How many partitions this instance consumes now. */
  readonly owned: number
  /** Ends within some seconds, once the running handlers have ended, and leaves the rest to other instances. */
  close (): Promise<void>
}

export interface StreamStats {
  /** How many events are stored. */
  length: number
  groups: Record<string, GroupStats>
}

export interface GroupStats {
  /** Stored events that the group has not taken yet. */
  lag: number
  /** Events that were taken and not acknowledged. */
  pending: number
  deadLetters: number
  /** Events that were trimmed before the group had handled them, since it exists. */
  lost: number
}

/** An event that a group gave up. */
export interface EventDeadLetter<T> {
  /** The dead letter's own id, for `after`, `replay` and `discard`. */
  id: string
  eventId: string
  key: string | undefined
  /** Undefined where it cannot be decoded. */
  data: T | undefined
  /** The message of the last error. */
  reason: string
  /** How often the event was attempted. */
  attempts: number
  /** When it was given up, by the store's clock: milliseconds since the epoch. */
  diedAt: number
}
