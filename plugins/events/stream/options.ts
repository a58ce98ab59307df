import { backoff } from '../../shared/plugin/backoff.js'
import { invalidArgumentError, invalidOptionError } from '../../shared/plugin/errors.js'
import { boolean, callable, duration, integer, oneOf, required, string } from '../../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../../shared/plugin/option-table.js'
import {
  isMessageKey, isQueueName, MESSAGE_KEY_ALLOWED, QUEUE_NAME, QUEUE_NAME_ALLOWED
} from '../../shared/work-queue/names.js'
import type { ConsumeOptions, StreamOptions } from './types.js'

// A TTL in milliseconds that Redis accepts and a number represents exactly.
const MAX_AGE_MS = 10 * 365 * 24 * 3600 * 1000

export function checkName (what: 'name' | 'group', name: unknown): string {
  if (isQueueName(name)) return name
  throw invalidArgumentError('events', what, name, QUEUE_NAME_ALLOWED)
}

export function checkKey (key: unknown): string | undefined {
  if (key === undefined || isMessageKey(key)) return key
  throw invalidOptionError('events', 'key', key, MESSAGE_KEY_ALLOWED)
}

const AGE = { min: 1000, max: MAX_AGE_MS }

export const STREAM_OPTIONS = {
  partitions: integer(1, { min: 1, max: 64 }),
  maxLength: integer(100_000, { min: 1 }),
  maxAge: duration('7 days', AGE),
  retention: duration('30 days', AGE),
  maxDeadLetters: integer(10_000, { min: 1 })
} satisfies OptionTable<StreamOptions>

export const CONSUME_OPTIONS = {
  group: required(string(undefined, QUEUE_NAME_ALLOWED, QUEUE_NAME)),
  handler: required(callable('`(event, { attempt, signal }) => unknown`')),
  concurrency: integer(1, { min: 1, max: 1000 }),
  retries: integer(5, { max: 1000 }),
  backoff: backoff(),
  deadLetter: boolean(true),
  from: oneOf('0', ['0', '$'])
} satisfies OptionTable<ConsumeOptions<never>>

/** The options, complete and checked. `maxLength` and `maxDeadLetters` are those of one partition. */
export type ResolvedStreamOptions = Resolved<typeof STREAM_OPTIONS>

export interface ResolvedConsumeOptions<T> extends Omit<Resolved<typeof CONSUME_OPTIONS>, 'handler'> {
  handler: ConsumeOptions<T>['handler']
}

export function resolveStream (given: StreamOptions): ResolvedStreamOptions {
  const options = resolveOptions('events', STREAM_OPTIONS, given)
  const share = (max: number) => Math.ceil(max / options.partitions)
  return { ...options, maxLength: share(options.maxLength), maxDeadLetters: share(options.maxDeadLetters) }
}

export function resolveConsume<T> (given: ConsumeOptions<T>): ResolvedConsumeOptions<T> {
  if (typeof given !== 'object' || given === null) {
    throw invalidArgumentError('events', 'options', given, 'an object with group and handler')
  }
  return { ...resolveOptions('events', CONSUME_OPTIONS, given), handler: given.handler }
}
