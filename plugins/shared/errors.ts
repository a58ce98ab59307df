import createError, { type FastifyErrorConstructor } from '@fastify/error'

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

/** The error of an option that cannot be used: it names the option, what was given and what is allowed. */
export function invalidOptionError (plugin: PluginName, option: string, given: unknown, allowed: string): Error {
  const InvalidOptionError = pluginError(plugin, 'INVALID_OPTION', 'option "%s" is %s; allowed: %s')
  return new InvalidOptionError(option, describe(given), allowed)
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

/** Describes a value in an error's message, without the contents of an object. */
export function describe (value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object' && value !== null) return 'an object'
  return String(value)
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
