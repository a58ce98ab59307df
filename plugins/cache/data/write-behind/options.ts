import { readBackoff, type BackoffOptions } from '../../../shared/plugin/backoff.js'
import { MAX_TIMER_MS, type Duration } from '../../../shared/plugin/duration.js'
import { invalidArgumentError } from '../../../shared/plugin/errors.js'
import { readOptions } from '../../../shared/plugin/option-reader.js'
import type { Cached } from '../jsonify.js'

/** A write as the source gets it. */
export interface Write<T> {
  /** Unique within the name of the write-behind; the same when the write is given again. */
  readonly id: string
  readonly key: string
  readonly value: T
  /** How often it has been given, this time included: above 1 it may have been written already. */
  readonly attempt: number
  /** When it was accepted, by the store's clock: milliseconds since the epoch. */
  readonly acceptedAt: number
}

export interface WriteContext {
  /** Fires when another instance may be writing the same keys, and when the write took longer than `hardTimeout`: stop then. */
  readonly signal: AbortSignal
  /** Greater for each new writer of a key: a source that refuses a smaller one than it has seen is safe from a writer that was paused. */
  readonly fence: number
}

export interface WriteBehindOptions<T> {
  /**
   * Writes them to the source, all or none: where it rejects, they are given again, one by one. It gets the writes of a key
   * in the order in which they were accepted, never two calls of one key at a time, and some of them twice.
   */
  write: (batch: ReadonlyArray<Write<Cached<T>>>, context: WriteContext) => void | Promise<void>
  /** The most writes given at once, 1 to 1,000. @default 100 */
  batch?: number | undefined
  /** How long a write may wait for others. A full batch goes at once where the instance that adds is the one that writes. @default '1s' */
  flushEvery?: Duration | undefined
  /** How often a write that failed by itself is given again before it becomes a dead letter. @default 5 */
  retries?: number | undefined
  /** How long to wait between: twice as long each time, with jitter. @default { min: 100, max: '30s' } */
  backoff?: BackoffOptions | undefined
  /** How long one call of `write` may take. @default '30s' */
  hardTimeout?: Duration | undefined
  /** Of several waiting writes of a key only the last is given. @default false */
  latest?: boolean | undefined
  /**
   * Whether an error is that of the source as a whole and of no write: then all wait, and it counts as no retry.
   * @default errors of the network, by their `code`
   */
  isOutage?: ((error: unknown) => boolean | Promise<boolean>) | undefined
  /** How many writes may wait; each partition has an equal share. More are refused. @default 100_000 */
  maxBacklog?: number | undefined
  /** How many dead letters are kept, an equal share in each partition; the oldest go first. @default 10_000 */
  maxDeadLetters?: number | undefined
  /** How many calls of `write` there may be at a time, on all instances, 1 to 64: each has its part of the keys. The same on all instances. @default 4 */
  partitions?: number | undefined
}

export interface ResolvedWriteBehindOptions<T> {
  write: WriteBehindOptions<T>['write']
  batch: number
  flushEvery: number
  retries: number
  backoff: { min: number, max: number }
  hardTimeout: number
  latest: boolean
  isOutage: (error: unknown) => boolean | Promise<boolean>
  /** Of one partition. */
  maxBacklog: number
  /** Of one partition. */
  maxDeadLetters: number
  partitions: number
}

const KNOWN = ['write', 'batch', 'flushEvery', 'retries', 'backoff', 'hardTimeout', 'latest', 'isOutage', 'maxBacklog', 'maxDeadLetters', 'partitions']
const NAME = /^[\w.-]{1,64}$/
const MAX_KEY_LENGTH = 1024
const NETWORK_ERRORS = ['ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'EHOSTDOWN', 'ENETUNREACH', 'ENETDOWN']

export function resolveWriteBehind<T> (name: unknown, given: WriteBehindOptions<T>): ResolvedWriteBehindOptions<T> {
  if (typeof name !== 'string' || !NAME.test(name)) throw invalidArgumentError('cache', 'name', name, 'up to 64 letters, digits and . _ -')
  if (typeof given !== 'object' || given === null) throw invalidArgumentError('cache', 'options', given, 'an object')
  const read = readOptions('cache', given)
  read.onlyKnown(KNOWN)
  const { write, isOutage = isNetworkError } = given
  if (typeof write !== 'function') read.fail('write', 'a function')
  if (typeof isOutage !== 'function') read.fail('isOutage', 'a function')
  const partitions = read.integer('partitions', 4, { min: 1, max: 64 })
  const share = (most: number) => Math.ceil(most / partitions)
  return {
    write,
    isOutage,
    partitions,
    batch: read.integer('batch', 100, { min: 1, max: 1000 }),
    flushEvery: read.duration('flushEvery', '1s', { min: 1, max: MAX_TIMER_MS }),
    retries: read.integer('retries', 5, { max: 1000 }),
    backoff: readBackoff('cache', given.backoff),
    hardTimeout: read.duration('hardTimeout', '30s', { min: 1, max: MAX_TIMER_MS }),
    latest: read.boolean('latest', false),
    maxBacklog: share(read.integer('maxBacklog', 100_000, { min: 1 })),
    maxDeadLetters: share(read.integer('maxDeadLetters', 10_000, { min: 1 }))
  }
}

export function checkWriteKey (key: unknown): string {
  if (typeof key === 'string' && key !== '' && key.length <= MAX_KEY_LENGTH) return key
  throw invalidArgumentError('cache', 'key', key, `a string of 1 to ${MAX_KEY_LENGTH} characters`)
}

function isNetworkError (error: unknown): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && NETWORK_ERRORS.includes(error.code)
}
