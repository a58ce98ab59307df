import createError, { type FastifyErrorConstructor } from '@fastify/error'
import type { FastifyRequest } from 'fastify'

/** The plugins that can raise a coded error; the name is a part of the code. */
export type PluginName = 'redis' | 'cache' | 'session' | 'rate-limit' | 'health' | 'events' | 'lock' | 'metrics' | 'idempotency' | 'testing'

type MessageArgs = [unknown?, unknown?, unknown?]

// Whatever cannot be had now is asked for again soon.
const RETRY_SOON = Object.freeze({ 'retry-after': '1' })

/**
 * A class of coded errors, `FST_REDIS_SUITE_<PLUGIN>_<WHAT>`. Where one of 503 is the answer, Fastify sends `Retry-After: 1` with it.
 *
 * @param what - upper case, words joined by `_`
 * @param message - may hold `%s`, filled in from the constructor's arguments
 * @param statusCode - what a client sees when the error reaches it; 500 if left out
 */
export function pluginError (
  plugin: PluginName, what: string, message: string, statusCode = 500
): FastifyErrorConstructor<{ code: string }, MessageArgs> {
  const code = `FST_REDIS_SUITE_${plugin.toUpperCase().replaceAll('-', '_')}_${what}`
  const CodedError = createError<MessageArgs>(code, `${plugin}: ${message}`, statusCode)
  if (statusCode === 503) Object.defineProperty(CodedError.prototype, 'headers', { value: RETRY_SOON, writable: true })
  return CodedError
}

/** Returns the error of an option that cannot be used: it names the option, what was given and what is allowed. */
export function invalidOptionError (plugin: PluginName, option: string, given: unknown, allowed: string): Error {
  return invalidError(plugin, `option "${option}"`, given, allowed)
}

/** Returns the error of a call's argument that cannot be used, with the code of {@link invalidOptionError}. */
export function invalidArgumentError (plugin: PluginName, argument: string, given: unknown, allowed: string): Error {
  return invalidError(plugin, `argument "${argument}"`, given, allowed)
}

function invalidError (plugin: PluginName, what: string, given: unknown, allowed: string): Error {
  const InvalidOptionError = pluginError(plugin, 'INVALID_OPTION', '%s is %s; allowed: %s')
  return new InvalidOptionError(what, describe(given), allowed)
}

/**
 * Returns the error of an option that the plugin does not have: it names the option that may have been meant, and all that there are.
 *
 * @param kind - what the name is of, where it is not of an option
 * @param allowed - names what is allowed, where the list is too long
 */
export function unknownOptionError (plugin: PluginName, option: string, known: readonly string[], kind = 'option', allowed = `one of ${known.join(', ')}`): Error {
  const UnknownOptionError = pluginError(plugin, 'INVALID_OPTION', 'unknown %s; %sallowed: %s')
  const meant = closest(option, known)
  return new UnknownOptionError(`${kind} ${quote(option)}`, meant === undefined ? '' : `did you mean "${meant}"? `, allowed)
}

/**
 * Runs `resolve`, and names the route in the message of an error that it throws, as an app has many routes with the same option.
 *
 * @throws what `resolve` throws
 */
export function namingRoute<T> (route: { method: string | readonly string[], url: string }, resolve: () => T): T {
  try {
    return resolve()
  } catch (error) {
    if (error instanceof Error) {
      const said = error.message
      error.message = said.replace(/^[\w-]+: /, start => `${start}route ${[route.method].flat().join()} ${route.url}: `)
      // The stack repeats the message.
      if (error.stack !== undefined) error.stack = error.stack.replace(said, () => error.message)
    }
    throw error
  }
}

/** Names the route of a request, for an error or a log line. */
export function routeOf ({ method, url, routeOptions }: FastifyRequest): string {
  return `${method} ${routeOptions.url ?? url}`
}

/**
 * The error of a plugin that is registered where it is already, `FST_REDIS_SUITE_<PLUGIN>_ALREADY_REGISTERED`; or of one that stands in its way.
 *
 * @param name - what the plugin decorates, and is taken
 */
export function alreadyRegisteredError (plugin: PluginName, name: string): Error {
  const AlreadyRegisteredError = pluginError(plugin, 'ALREADY_REGISTERED', '%s is taken, by this plugin or another one, in this context or above: register it once, or in contexts beside each other')
  return new AlreadyRegisteredError(name)
}

/** A description in the place of a value that an error must not repeat, or cannot. */
export class InWords {
  readonly text: string

  constructor (text: string) {
    this.text = text
  }
}

/** Describes a value in an error's message, without the contents of an object. */
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

const LONGEST_NAME = 64

/** Returns the known name that a misspelt one resembles most; undefined where none is close. */
function closest (name: string, known: readonly string[]): string | undefined {
  if (name.length > LONGEST_NAME) return undefined
  const near = known.map(each => ({ each, edits: edits(name.toLowerCase(), each.toLowerCase()) })).sort((a, b) => a.edits - b.edits)[0]
  if (near !== undefined && near.edits <= Math.max(1, Math.floor(name.length / 3))) return near.each
  // `windowMs`, as express-rate-limit has it, is within `timeWindow`.
  const bare = name.toLowerCase().replace(/ms$/, '')
  return known.find(each => each.length >= 3 && name.startsWith(each)) ?? known.find(each => bare.length >= 4 && each.toLowerCase().includes(bare))
}

/** Returns how many letters have to be inserted, deleted or replaced to make `b` of `a` (Levenshtein distance). */
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

/** What was thrown, as an error. */
export function toError (thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown))
}

/** Why, in words: an error of the client's carries a command's arguments, which may be secret. */
export function reasonOf (thrown: unknown): string {
  return withoutArguments(toError(thrown).message)
}

/** A server names the arguments of a command that it does not know, which may be a password (`HELLO 3 AUTH …` before Redis 6). */
export function withoutArguments (message: string): string {
  return message.replace(/,? with args beginning with:.*$/s, '')
}

/**
 * An answer, even an error (`OOM`, `READONLY`, `WRONGTYPE`), shows that the server is there and quick, so it does
 * not open the circuit. Replies that say the server as a whole cannot serve do.
 */
export function isOutage (error: unknown): error is Error {
  if (!(error instanceof Error)) return false
  // A slot moved while these commands were collected: they were not sent, those of the next turn are.
  if (error.message.startsWith('All keys in the pipeline ')) return false
  return error.name !== 'ReplyError' || /^(LOADING|CLUSTERDOWN|MASTERDOWN)\b/.test(error.message)
}

/** Whether a key holds another type than the command is for. */
export function isWrongType (error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('WRONGTYPE')
}
