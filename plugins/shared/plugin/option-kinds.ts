import { isClock, systemClock, type Clock } from './clock.js'
import { parseDuration, type Duration } from './duration.js'
import type { PluginName } from './errors.js'
import type { Option } from './option-table.js'
import type { Bytes, Milliseconds } from './units.js'

/** The largest number of entries that an option may reserve memory for. */
export const MAX_ENTRIES = 10_000_000

export interface Limits {
  min?: number
  max?: number
}

/** An option without a default resolves to `undefined` where it is left out. */
type OrDefault<Value, Fallback> = undefined extends Fallback ? Value | undefined : Value

interface Kind<Value, Fallback> extends Omit<Option<Fallback, Value>, 'resolvedDefault' | 'parse'> {
  parse: (given: unknown, plugin: PluginName) => Value | undefined
}

/** An option with a check of its own. */
export function option<Given, Value = Given, const Fallback extends Given | undefined = undefined> (
  kind: Kind<Value, Fallback>
): Option<Given, OrDefault<Value, Fallback>> {
  const { fallback } = kind
  const resolvedDefault = fallback === undefined ? undefined : kind.parse(fallback, 'redis')
  if (fallback !== undefined && resolvedDefault === undefined) throw new TypeError(`a default is not ${kind.allowed}`)
  return { ...kind, resolvedDefault } as Option<Given, OrDefault<Value, Fallback>>
}

/** An option that the program must give. */
export function required<Given, Value> (optional: Option<Given, Value>): Option<Given, NonNullable<Value>> {
  return { ...optional, isRequired: true, fallbackText: 'required' } as Option<Given, NonNullable<Value>>
}

/** A {@link Duration}, resolved to whole milliseconds. */
export function duration<const Fallback extends Duration | undefined = undefined> (
  fallback?: Fallback, limits: Limits = {}
) {
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = limits
  return option<Duration, Milliseconds, Fallback>({
    type: 'duration',
    allowed: `milliseconds or a string such as '30s'${range(min, max, ' ms')}`,
    limits,
    fallback: fallback as Fallback,
    nullIsDefault: true,
    parse (given) {
      const ms = parseDuration(given)
      return ms === undefined || ms < min || ms > max ? undefined : ms
    }
  })
}

/** The option `timeout` of operations on Redis. Its default depends on the client. */
export function redisTimeout (max?: Milliseconds): Option<Duration, Milliseconds | undefined> {
  return withDefault(duration(undefined, { min: 1, ...max !== undefined && { max } }), '150 ms; over HTTP 1000 ms')
}

export function integer<const Fallback extends number | undefined = undefined> (
  fallback?: Fallback, limits: Limits = {}, type = 'integer'
) {
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = limits
  return option<number, number, Fallback>({
    type,
    allowed: `a whole number${range(min, max)}`,
    limits,
    fallback: fallback as Fallback,
    nullIsDefault: true,
    parse: given =>
      typeof given === 'number' && Number.isSafeInteger(given) && given >= min && given <= max ? given : undefined
  })
}

export function bytes (fallback: Bytes, limits?: Limits): Option<Bytes> {
  return integer(fallback, limits, 'bytes')
}

/** A number from 0 to `max`. */
export function fraction (fallback: number, max = 1): Option<number> {
  return option<number, number, number>({
    type: 'number',
    allowed: `a number from 0 to ${max}`,
    limits: { min: 0, max },
    fallback,
    nullIsDefault: true,
    parse: given => typeof given === 'number' && given >= 0 && given <= max ? given : undefined
  })
}

export function boolean<const Fallback extends boolean | undefined = undefined> (fallback?: Fallback) {
  return option<boolean, boolean, Fallback>({
    type: 'boolean',
    allowed: 'true or false',
    fallback: fallback as Fallback,
    nullIsDefault: true,
    parse: given => typeof given === 'boolean' ? given : undefined
  })
}

/** @param allowed - describes the strings that `pattern` accepts */
export function string<const Fallback extends string | undefined = undefined> (
  fallback?: Fallback, allowed = 'a string that is not empty', pattern = /./s
) {
  return option<string, string, Fallback>({
    type: 'string',
    allowed,
    fallback: fallback as Fallback,
    nullIsDefault: true,
    parse: given => typeof given === 'string' && pattern.test(given) ? given : undefined
  })
}

export function oneOf<const Value extends string> (fallback: NoInfer<Value>, allowed: readonly Value[]): Option<Value> {
  const list = allowed.map(value => `'${value}'`)
  return option<Value, Value, Value>({
    type: list.map(value => `\`${value}\``).join(', '),
    allowed: `one of ${list.join(', ')}`,
    fallback,
    nullIsDefault: true,
    parse: given => allowed.find(value => value === given)
  })
}

/** A list of names. */
export function strings (
  fallback: readonly string[], allowed: string, isAllowed: (name: string) => boolean = () => true
): Option<readonly string[]> {
  return option<readonly string[], readonly string[], readonly string[]>({
    type: 'string[]',
    allowed,
    fallback,
    parse: given => isListOfStrings(given) && given.every(isAllowed) ? given : undefined
  })
}

/** @param type - the function's signature in the docs */
export function callable<Given extends (...args: never[]) => unknown> (
  type: string, allowed = 'a function', fallbackText = 'none'
): Option<Given, NoInfer<Given> | undefined> {
  return option<Given>({
    type, allowed, fallbackText, parse: given => typeof given === 'function' ? given as Given : undefined
  })
}

/** An option that the plugin checks together with others, after the table was read. */
export function unchecked<Given> (
  type: string, fallbackText?: string, fallback?: Given
): Option<Given, NoInfer<Given> | undefined> {
  return { ...option<Given>({ type, allowed: '', fallbackText, parse: given => given as Given }), fallback }
}

/** The option `redis`. */
export function redisClient<Client> (otherwise = 'else the memory store'): Option<Client, NoInfer<Client> | undefined> {
  return unchecked('client or `false`', `\`fastify.redis\`, ${otherwise}`)
}

export function clock (): Option<Clock> {
  const kind = {
    type: 'clock',
    allowed: 'a clock of createTestClock() of fastify-redis-suite/testing',
    fallback: systemClock,
    fallbackText: "the system's clock",
    nullIsDefault: true,
    parse: (given: unknown) => isClock(given) ? given : undefined
  }
  return option<Clock, Clock, Clock>(kind)
}

/** An option that `false` turns off. */
export function orFalse<Given, Value> (on: Option<Given, Value>): Option<Given | false, Value | false> {
  return {
    ...on, type: `${on.type} or \`false\``, parse: (given, plugin) => given === false ? false : on.parse(given, plugin)
  }
}

/** An option whose default is described by `text` in the docs. */
export function withDefault<Given, Value> (option: Option<Given, Value>, text: string): Option<Given, Value> {
  return { ...option, fallbackText: text }
}

export function isListOfStrings (value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every(entry => typeof entry === 'string' && entry !== '')
}

function range (min: number, max: number, unit = ''): string {
  return max >= Number.MAX_SAFE_INTEGER ? ` from ${min}${unit}` : ` from ${min} to ${max}${unit}`
}
