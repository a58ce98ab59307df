import { backoff } from '../../shared/plugin/backoff.js'
import { invalidArgumentError, invalidOptionError } from '../../shared/plugin/errors.js'
import { boolean, callable, duration, integer, oneOf, required, string } from '../../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../../shared/plugin/option-table.js'
import type { ConsumeOptions, StreamOptions } from './types.js'

const NAME = /^[\w.-]{1,64}$/
const NAME_ALLOWED = 'up to 64 letters, digits and . _ -'
const MAX_KEY_LENGTH = 1024
// A TTL in milliseconds that Redis accepts and a number represents exactly.
const MAX_AGE_MS = 10 * 365 * 24 * 3600 * 1000

export function checkName (what: 'name' | 'group', name: unknown): string {
  if (typeof name === 'string' && NAME.test(name)) return name
  throw invalidArgumentError('events', what, name, NAME_ALLOWED)
}

export function checkKey (key: unknown): string | undefined {
  if (key === undefined || (typeof key === 'string' && key !== '' && key.length <= MAX_KEY_LENGTH)) return key
  throw invalidOptionError('events', 'key', key, `a string of 1 to ${MAX_KEY_LENGTH} characters`)
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
  group: required(string(undefined, NAME_ALLOWED, NAME)),
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
  if (typeof given !== 'object' || given === null) throw invalidArgumentError('events', 'options', given, 'an object with group and handler')
  return { ...resolveOptions('events', CONSUME_OPTIONS, given), handler: given.handler }
}
