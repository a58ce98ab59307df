import createError, { type FastifyErrorConstructor } from '@fastify/error'
import type { FastifyRequest } from 'fastify'

/** The plugins with coded errors. The name is a part of the code. */
export type PluginName = 'redis' | 'cache' | 'session' | 'rate-limit' | 'health' | 'events' | 'lock' | 'metrics' |
  'idempotency' | 'testing'

type MessageArgs = [unknown?, unknown?, unknown?]

// A service that is unavailable is worth a retry soon.
const RETRY_SOON = Object.freeze({ 'retry-after': '1' })

/**
 * Creates a class of errors with the code `FST_REDIS_SUITE_<PLUGIN>_<WHAT>`. Fastify sends an error with status 503
 * with `Retry-After: 1`.
 *
 * @param what - in upper case, words joined by `_`
 * @param message - may contain `%s` for each argument of the constructor
 * @param statusCode - the status of the response to a client that gets the error
 */
export function pluginError (
  plugin: PluginName, what: string, message: string, statusCode = 500
): FastifyErrorConstructor<{ code: string }, MessageArgs> {
  const code = `FST_REDIS_SUITE_${plugin.toUpperCase().replaceAll('-', '_')}_${what}`
  const CodedError = createError<MessageArgs>(code, `${plugin}: ${message}`, statusCode)
  if (statusCode === 503) Object.defineProperty(CodedError.prototype, 'headers', { value: RETRY_SOON, writable: true })
  return CodedError
}

/** Returns the error of an invalid option. @param allowed - completes "must be" */
export function invalidOptionError (plugin: PluginName, option: string, given: unknown, allowed: string): Error {
  return invalidError(plugin, `option "${option}"`, given, allowed)
}

/** Returns the error of a call's invalid argument, with the code of {@link invalidOptionError}. */
export function invalidArgumentError (plugin: PluginName, argument: string, given: unknown, allowed: string): Error {
  return invalidError(plugin, `argument "${argument}"`, given, allowed)
}

function invalidError (plugin: PluginName, what: string, given: unknown, allowed: string): Error {
  const InvalidOptionError = pluginError(plugin, 'INVALID_OPTION', '%s must be %s, but was %s')
  return new InvalidOptionError(what, allowed, describe(given))
}

/**
 * Returns the error of an unknown option, with the known option of a similar name and a list of all.
 *
 * @param kind - the kind of name, such as `event`
 * @param allowed - a text in place of a list that is too long
 */
export function unknownOptionError (
  plugin: PluginName, option: string, known: readonly string[], kind = 'option', allowed = `one of ${known.join(', ')}`
): Error {
  const UnknownOptionError = pluginError(plugin, 'INVALID_OPTION', 'unknown %s; %sallowed: %s')
  const meant = closest(option, known)
  return new UnknownOptionError(
    `${kind} ${quote(option)}`, meant === undefined ? '' : `did you mean "${meant}"? `, allowed
  )
}

/**
 * Calls `resolve`, and adds the route to the message of its error, as an app has many routes with the same option.
 *
 * @throws the error of `resolve`
 */
export function namingRoute<T> (route: { method: string | readonly string[], url: string }, resolve: () => T): T {
  try {
    return resolve()
  } catch (error) {
    if (error instanceof Error) {
      const { message } = error
      error.message = message.replace(/^[\w-]+: /, start =>
        `${start}route ${[route.method].flat().join()} ${route.url}: `)
      // The stack repeats the message.
      if (error.stack !== undefined) error.stack = error.stack.replace(message, () => error.message)
    }
    throw error
  }
}

/** Returns the method and URL pattern of a request's route, for an error or a log line. */
export function routeOf ({ method, url, routeOptions }: FastifyRequest): string {
  return `${method} ${routeOptions.url ?? url}`
}

/**
 * Returns `FST_REDIS_SUITE_<PLUGIN>_ALREADY_REGISTERED`: this plugin or another one has added the decorator before.
 *
 * @param name - the decorator
 */
export function alreadyRegisteredError (plugin: PluginName, name: string): Error {
  const AlreadyRegisteredError = pluginError(
    plugin, 'ALREADY_REGISTERED',
    '%s is taken, by this plugin or another one, in this context or above: register it once, or in contexts beside ' +
    'each other'
  )
  return new AlreadyRegisteredError(name)
}

/** A description of a value that an error must not repeat. */
export class InWords {
  readonly text: string

  constructor (text: string) {
    this.text = text
  }
}

/** Describes a value for an error's message, without the contents of an object. */
export function describe (value: unknown): string {
  if (value instanceof InWords) return value.text
  if (typeof value === 'string') return `the string ${quote(value)}`
  if (typeof value === 'bigint') return `the bigint ${value}`
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object' && value !== null) return 'an object'
  return String(value)
}

function quote (text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)
}

const MAX_NAME_LENGTH = 64

/** Returns the known name that is closest to a misspelt one; undefined if none is close. */
function closest (name: string, known: readonly string[]): string | undefined {
  if (name.length > MAX_NAME_LENGTH) return undefined
  const near = known.map(each =>
    ({ each, edits: edits(name.toLowerCase(), each.toLowerCase()) })).sort((a, b) => a.edits - b.edits)[0]
  if (near !== undefined && near.edits <= Math.max(1, Math.floor(name.length / 3))) return near.each
  // `windowMs` of express-rate-limit is contained in `timeWindow`.
  const bare = name.toLowerCase().replace(/ms$/, '')
  return known.find(each => each.length >= 3 && name.startsWith(each)) ??
    known.find(each => bare.length >= 4 && each.toLowerCase().includes(bare))
}

/** Returns the Levenshtein distance of two names. */
function edits (a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (const [index, letter] of [...a].entries()) {
    const next = [index + 1]
    for (const [column, other] of [...b].entries()) {
      next.push(Math.min(next[column]! + 1, row[column + 1]! + 1, row[column]! + (letter === other ? 0 : 1)))
    }
    row = next
  }
  return row.at(-1)!
}

/** Returns a thrown value as an error. */
export function toError (thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown))
}

/** Returns an error's message for a log. The error itself may contain a command's arguments, which may be secret. */
export function reasonOf (thrown: unknown): string {
  return withoutArguments(toError(thrown).message)
}

/**
 * Returns an error as the `cause` of another one, without a command's arguments: the log shows a cause, and an error of
 * a Redis client has the command.
 */
export function withoutCommand (thrown: unknown): Error {
  const error = toError(thrown)
  const reason = withoutArguments(error.message)
  return 'command' in error || reason !== error.message ? new Error(reason) : error
}

/** Removes arguments that Redis quotes of an unknown command, such as a password (`HELLO 3 AUTH …` before Redis 6). */
export function withoutArguments (message: string): string {
  return message.replace(/,? with args beginning with:.*$/s, '')
}

/**
 * Whether an error means that Redis is unavailable, which opens the circuit. Error replies to single commands (`OOM`,
 * `READONLY`, `WRONGTYPE`) do not: the server is reachable and fast.
 */
export function isOutage (error: unknown): error is Error {
  if (!(error instanceof Error)) return false
  // A slot moved while ioredis collected the pipeline: its commands were not sent, and the next pipeline's will be.
  if (error.message.startsWith('All keys in the pipeline ')) return false
  return error.name !== 'ReplyError' || /^(LOADING|CLUSTERDOWN|MASTERDOWN)\b/.test(error.message)
}

/** Handles the rejection of a command whose error replies are as good as a reply: only an outage is thrown again. */
export function throwOutage (error: unknown): void {
  if (isOutage(error)) throw error
}

/** Whether Redis refuses a write because it is a replica. */
export function isReadonly (error: unknown): boolean {
  return isReply(error, READONLY)
}

/** Whether Redis refuses all writes in its present state. */
export function isWriteRefusal (error: unknown): boolean {
  return isReply(error, WRITE_REFUSAL)
}

/** Whether Redis refuses a command that may need memory. */
export function isOutOfMemory (error: unknown): boolean {
  return isReply(error, OUT_OF_MEMORY)
}

// Before version 7 the reply of a script quotes the command's.
const READONLY = /(?:^|: -)READONLY\b/
const OUT_OF_MEMORY = /(?:^|: -)OOM\b/
const WRITE_REFUSAL = /(?:^|: -)(?:READONLY|MISCONF|NOREPLICAS)\b/

function isReply (error: unknown, reply: RegExp): boolean {
  return error instanceof Error && reply.test(error.message)
}

/** Returns an error reply of Redis, for a client that has it as text. */
export function replyError (message: string): Error {
  const error = new Error(message)
  error.name = 'ReplyError'
  return error
}

/** Whether a key has another type than the command needs. */
export function isWrongType (error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('WRONGTYPE')
}
