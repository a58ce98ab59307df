import { isClock, systemClock, type Clock } from './clock.js'
import { type Duration, parseDuration } from './duration.js'
import { invalidArgumentError, invalidOptionError, unknownOptionError, type PluginName } from './errors.js'

/** Options that Fastify itself reads from what `register` is given: every plugin lets them through. */
export const FASTIFY_OPTIONS: readonly string[] = ['prefix', 'logLevel', 'logSerializers']

/** The most entries that a program may have kept in memory: room for them is made at once. */
export const MAX_ENTRIES = 10_000_000

export interface OptionReader {
  /** Throws where `options` has a key that is not in `known`: a misspelt option must not be silently without effect. */
  onlyKnown (known: readonly string[]): void
  /** Whole milliseconds. */
  duration (name: string, fallback: Duration, limits?: { min?: number, max?: number }): number
  integer (name: string, fallback: number, limits?: { min?: number, max?: number }): number
  /** From 0 to 1. */
  fraction (name: string, fallback: number): number
  boolean (name: string, fallback: boolean): boolean
  string (name: string, fallback: string): string
  oneOf<const T extends string> (name: string, fallback: T, allowed: readonly T[]): T
  /** The option `clock`. @default the system's */
  clock (): Clock
  fail (name: string, allowed: string): never
}

/** Reads a plugin's options one by one; each reader throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION`. */
export function readOptions (plugin: PluginName, options: object): OptionReader {
  // JavaScript may have given anything.
  if (typeof options !== 'object' || options === null) throw invalidArgumentError(plugin, 'options', options, 'an object')
  const given = (name: string): unknown => Reflect.get(options, name)
  const fail = (name: string, allowed: string): never => {
    throw invalidOptionError(plugin, name, given(name), allowed)
  }

  return {
    fail,
    onlyKnown (known) {
      const unknown = Object.keys(options).find(name => !known.includes(name) && !FASTIFY_OPTIONS.includes(name))
      if (unknown !== undefined) throw unknownOptionError(plugin, unknown, known)
    },
    duration (name, fallback, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}) {
      const ms = parseDuration(given(name) ?? fallback)
      if (ms === undefined || ms < min || ms > max) {
        return fail(name, `milliseconds or a string such as '30s'${range(min, max, ' ms')}`)
      }
      return ms
    },
    integer (name, fallback, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}) {
      const value = given(name) ?? fallback
      if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
        return fail(name, `a whole number${range(min, max)}`)
      }
      return value
    },
    fraction (name, fallback) {
      const value = given(name) ?? fallback
      return typeof value === 'number' && value >= 0 && value <= 1 ? value : fail(name, 'a number from 0 to 1')
    },
    boolean (name, fallback) {
      const value = given(name) ?? fallback
      return typeof value === 'boolean' ? value : fail(name, 'true or false')
    },
    string (name, fallback) {
      const value = given(name) ?? fallback
      return typeof value === 'string' && value !== '' ? value : fail(name, 'a string that is not empty')
    },
    clock () {
      const value = given('clock') ?? systemClock
      return isClock(value) ? value : fail('clock', 'a clock of createTestClock() of fastify-redis-suite/testing')
    },
    oneOf (name, fallback, allowed) {
      const value = given(name) ?? fallback
      return allowed.find(entry => entry === value) ?? fail(name, allowed.map(entry => `'${entry}'`).join(', '))
    }
  }
}

function range (min: number, max: number, unit = ''): string {
  return max >= Number.MAX_SAFE_INTEGER ? ` from ${min}${unit}` : ` from ${min} to ${max}${unit}`
}
