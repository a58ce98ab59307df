import { readBackoff } from '../../shared/plugin/backoff.js'
import { invalidArgumentError, invalidOptionError } from '../../shared/plugin/errors.js'
import { readOptions } from '../../shared/plugin/option-reader.js'
import type { ConsumeOptions, StreamOptions } from './types.js'

export interface ResolvedStreamOptions {
  partitions: number
  /** Of one partition. */
  maxLength: number
  /** Milliseconds. */
  maxAge: number
  /** Milliseconds. */
  retention: number
  /** Of one partition. */
  maxDeadLetters: number
}

export interface ResolvedConsumeOptions<T> {
  group: string
  handler: ConsumeOptions<T>['handler']
  concurrency: number
  retries: number
  backoff: { min: number, max: number }
  deadLetter: boolean
  from: '0' | '$'
}

const NAME = /^[\w.-]{1,64}$/
const NAME_ALLOWED = 'up to 64 letters, digits and . _ -'
const MAX_KEY_LENGTH = 1024
// A TTL in milliseconds that Redis takes and a number still tells exactly.
const MAX_AGE_MS = 10 * 365 * 24 * 3600 * 1000

export function checkName (what: 'name' | 'group', name: unknown, refuse = invalidArgumentError): string {
  if (typeof name === 'string' && NAME.test(name)) return name
  throw refuse('events', what, name, NAME_ALLOWED)
}

export function checkKey (key: unknown): string | undefined {
  if (key === undefined || (typeof key === 'string' && key !== '' && key.length <= MAX_KEY_LENGTH)) return key
  throw invalidOptionError('events', 'key', key, `a string of 1 to ${MAX_KEY_LENGTH} characters`)
}

export function resolveStream (given: StreamOptions): ResolvedStreamOptions {
  const read = readOptions('events', objectOf(given))
  read.onlyKnown(['partitions', 'maxLength', 'maxAge', 'retention', 'maxDeadLetters'])
  const partitions = read.integer('partitions', 1, { min: 1, max: 64 })
  const share = (most: number) => Math.ceil(most / partitions)
  return {
    partitions,
    maxLength: share(read.integer('maxLength', 100_000, { min: 1 })),
    maxAge: read.duration('maxAge', '7 days', { min: 1000, max: MAX_AGE_MS }),
    retention: read.duration('retention', '30 days', { min: 1000, max: MAX_AGE_MS }),
    maxDeadLetters: share(read.integer('maxDeadLetters', 10_000, { min: 1 }))
  }
}

export function resolveConsume<T> (given: ConsumeOptions<T>): ResolvedConsumeOptions<T> {
  const read = readOptions('events', objectOf(given, 'an object with group and handler'))
  read.onlyKnown(['group', 'handler', 'concurrency', 'retries', 'backoff', 'deadLetter', 'from'])
  const { handler } = given
  if (typeof handler !== 'function') read.fail('handler', 'a function')
  return {
    group: checkName('group', given.group, invalidOptionError),
    handler,
    concurrency: read.integer('concurrency', 1, { min: 1, max: 1000 }),
    retries: read.integer('retries', 5, { max: 1000 }),
    backoff: readBackoff('events', given.backoff),
    deadLetter: read.boolean('deadLetter', true),
    from: read.oneOf('from', '0', ['0', '$'])
  }
}

function objectOf<O extends object> (options: O, allowed = 'an object'): O {
  if (typeof options === 'object' && options !== null) return options
  throw invalidArgumentError('events', 'options', options, allowed)
}
