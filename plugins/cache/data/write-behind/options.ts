import { backoff, type BackoffOptions } from '../../../shared/plugin/backoff.js'
import { MAX_TIMER_MS, type Duration } from '../../../shared/plugin/duration.js'
import { invalidArgumentError } from '../../../shared/plugin/errors.js'
import { boolean, callable, duration, integer, option, required } from '../../../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../../../shared/plugin/option-table.js'
import { isRecord } from '../../store/entry.js'
import { isMessageKey, isQueueName, MESSAGE_KEY_ALLOWED, QUEUE_NAME_ALLOWED } from '../../../shared/work-queue/names.js'
import type { Cached } from '../jsonify.js'
import type { ValueOptions } from '../value-options.js'

/** A write as the source receives it. */
export interface Write<T> {
  /** Unique within the name of the write-behind, and the same when the write is retried. */
  readonly id: string
  readonly key: string
  readonly value: T
  /** The number of this attempt, from 1. Above 1 the write may have reached the source already. */
  readonly attempt: number
  /** When it was accepted, by the store's clock: milliseconds since the epoch. */
  readonly acceptedAt: number
}

export interface WriteContext {
  /**
   * Fires when another instance may be writing the same keys, and when the write takes longer than `hardTimeout`. Stop
   * then.
   */
  readonly signal: AbortSignal
  /**
   * Greater for each new writer of a key. A source that refuses a smaller one than it has seen is safe from a writer
   * that was paused.
   */
  readonly fence: number
}

export interface WriteBehindOptions<T> {
  /**
   * Writes a batch to the source, all writes or none: if it rejects, the writes are retried one by one. The writes of a
   * key arrive in the order in which they were accepted, never in two calls at a time, and some of them twice. Stop
   * when `signal` fires.
   */
  write: (batch: ReadonlyArray<Write<Cached<T>>>, context: WriteContext) => void | Promise<void>
  /**
   * Whether `add` also caches the value under its key, in the view that `writeBehind` is called on: `true` with the
   * view's defaults, or the options of `set`, such as `{ ttl: '1h', tags: value => [value.list] }`. It must be the same
   * on all instances.
   *
   * @default false
   */
  cache?: boolean | ValueOptions<T> | undefined
  /** The largest number of writes in a batch. @default 100 */
  batch?: number | undefined
  /**
   * How long a write may wait for others. A full batch is written at once if the instance that adds to it also writes
   * the partition; elsewhere at the next poll.
   *
   * @default '1s'
   */
  flushEvery?: Duration | undefined
  /** How often a write that failed on its own is retried before it becomes a dead letter. @default 5 */
  retries?: number | undefined
  /** How long to wait between attempts: doubled each time, with jitter. @default { min: 100, max: '30s' } */
  backoff?: BackoffOptions | undefined
  /** How long one call of `write` may take. Then `signal` fires and the call counts as failed. @default '30s' */
  hardTimeout?: Duration | undefined
  /** Whether only the last of several waiting writes of a key is written. @default false */
  latest?: boolean | undefined
  /**
   * Returns whether an error is an outage of the source, not the failure of a write. Then all writes wait, with
   * back-off, and no retry is counted.
   *
   * @default network errors, by `code`
   */
  isOutage?: ((error: unknown) => boolean | Promise<boolean>) | undefined
  /** How many writes may wait, an equal share in each partition. Further writes are refused. @default 100_000 */
  maxBacklog?: number | undefined
  /**
   * How many dead letters are kept, an equal share in each partition. The oldest are dropped, which is logged.
   *
   * @default 10_000
   */
  maxDeadLetters?: number | undefined
  /**
   * How many calls of `write` may run at a time across all instances, each for its share of the keys. It must be the
   * same on all instances. With 1, all keys have one order.
   *
   * @default 4
   */
  partitions?: number | undefined
}

const NETWORK_ERRORS = [
  'ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH',
  'EHOSTDOWN', 'ENETUNREACH', 'ENETDOWN'
]

export const WRITE_BEHIND_OPTIONS = {
  write: required(callable('`(batch, { signal, fence }) => Promise<void>`')),
  cache: option<boolean | ValueOptions<never>, boolean | ValueOptions<never>, false>({
    type: 'boolean or options of `set`',
    allowed: 'true, false or an object of options of `set`',
    fallback: false,
    nullIsDefault: true,
    parse: given => typeof given === 'boolean' || isRecord(given) ? given : undefined
  }),
  batch: integer(100, { min: 1, max: 1000 }),
  flushEvery: duration('1s', { min: 1, max: MAX_TIMER_MS }),
  retries: integer(5, { max: 1000 }),
  backoff: backoff(),
  hardTimeout: duration('30s', { min: 1, max: MAX_TIMER_MS }),
  latest: boolean(false),
  isOutage: callable('`(error) => boolean`, sync or async', 'a function', 'network errors, by `code`'),
  maxBacklog: integer(100_000, { min: 1 }),
  maxDeadLetters: integer(10_000, { min: 1 }),
  partitions: integer(4, { min: 1, max: 64 })
} satisfies OptionTable<WriteBehindOptions<never>>

/** The options, complete and checked. `maxBacklog` and `maxDeadLetters` are those of one partition. */
export interface ResolvedWriteBehindOptions<T>
  extends Omit<Resolved<typeof WRITE_BEHIND_OPTIONS>, 'write' | 'isOutage'> {
  write: WriteBehindOptions<T>['write']
  isOutage: (error: unknown) => boolean | Promise<boolean>
}

export function resolveWriteBehind<T> (name: unknown, given: WriteBehindOptions<T>): ResolvedWriteBehindOptions<T> {
  if (!isQueueName(name)) throw invalidArgumentError('cache', 'name', name, QUEUE_NAME_ALLOWED)
  const options = resolveOptions('cache', WRITE_BEHIND_OPTIONS, given)
  const share = (max: number) => Math.ceil(max / options.partitions)
  return {
    ...options,
    write: given.write,
    isOutage: options.isOutage ?? isNetworkError,
    maxBacklog: share(options.maxBacklog),
    maxDeadLetters: share(options.maxDeadLetters)
  }
}

export function checkWriteKey (key: unknown): string {
  if (isMessageKey(key)) return key
  throw invalidArgumentError('cache', 'key', key, MESSAGE_KEY_ALLOWED)
}

function isNetworkError (error: unknown): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' &&
    NETWORK_ERRORS.includes(error.code)
}
