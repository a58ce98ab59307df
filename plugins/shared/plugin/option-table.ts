import { invalidArgumentError, invalidOptionError, InWords, unknownOptionError, type PluginName } from './errors.js'
import type { Limits } from './option-kinds.js'

/** Options that Fastify itself reads from the options of `register`: every plugin accepts them. */
export const FASTIFY_OPTIONS: readonly string[] = ['prefix', 'logLevel', 'logSerializers']

/** How one option is read. `Given` is what a program writes, `Value` what the plugin uses. */
export interface Option<Given, Value = Given> {
  /** The type in the docs, as Markdown. */
  readonly type: string
  /** The accepted values, for errors. */
  readonly allowed: string
  /** For the docs. */
  readonly limits?: Limits
  /** The default, as a program would write it. */
  readonly fallback?: Given | undefined
  /** The default in the docs, where it is not a constant. */
  readonly fallbackText?: string | undefined
  /** Whether `null` counts as left out. */
  readonly nullIsDefault?: boolean
  readonly isRequired?: boolean
  /** Describes a value that is not allowed, for errors that must not repeat it. */
  readonly secret?: string
  /** The value of an option that is left out. */
  readonly value: Value
  /** Returns the value in the form that the plugin uses, or `undefined` if it is not allowed. */
  parse (given: unknown, plugin: PluginName): Value | undefined
}

/**
 * All options of the type `O` by name: the compiler refuses a table that lacks one, has another one, or a default of another type.
 * Validation, suggestions for a misspelt name, defaults and the tables of the docs come from it.
 */
export type OptionTable<O> = { readonly [Name in keyof O]-?: Option<NonNullable<O[Name]>, unknown> }

type Rows = Readonly<Record<string, Option<unknown, unknown>>>

/** The options as the plugin uses them: complete, checked and under their public names. */
export type Resolved<T> = { -readonly [Name in keyof T]: T[Name] extends Option<unknown, infer Value> ? Value : never }

/**
 * Reads all options of a table.
 *
 * @param defaults - values that replace the table's defaults
 * @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` for a name that is not in the table, or a value that is not allowed
 */
export function resolveOptions<T extends Rows> (plugin: PluginName, table: T, given: object, defaults?: Partial<Resolved<T>>): Resolved<T> {
  checkNames(plugin, table, given)
  return readOptions(plugin, table, given, defaults)
}

/** @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` for a name that is not in the table: a misspelt option would have no effect */
export function checkNames (plugin: PluginName, table: object, given: object): void {
  // A program in JavaScript may pass anything.
  if (typeof given !== 'object' || given === null) throw invalidArgumentError(plugin, 'options', given, 'an object')
  const unknown = Object.keys(given).find(name => !Object.hasOwn(table, name) && !FASTIFY_OPTIONS.includes(name))
  if (unknown !== undefined) throw unknownOptionError(plugin, unknown, Object.keys(table))
}

/** As {@link resolveOptions}, from an object that may have other properties as well. */
export function readOptions<T extends Rows> (plugin: PluginName, table: T, given: object, defaults?: Partial<Resolved<T>>): Resolved<T> {
  const values: Record<string, unknown> = {}
  for (const name in table) values[name] = readOption(plugin, name, table[name]!, given, defaults?.[name])
  return values as Resolved<T>
}

/** @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` */
export function readOption<Value> (plugin: PluginName, name: string, option: Option<unknown, Value>, given: object, fallback?: Value): Value {
  const value: unknown = Reflect.get(given, name)
  if (!option.isRequired && (value === undefined || (value === null && option.nullIsDefault))) return fallback ?? option.value
  const parsed = option.parse(value, plugin)
  if (parsed !== undefined) return parsed
  const isHidden = option.secret !== undefined && value !== undefined
  throw invalidOptionError(plugin, name, isHidden ? new InWords(option.secret) : value, option.allowed)
}

/** Throws the error of an option that its kind accepts, and that is not allowed beside another one. */
export function refuseOption<O extends object> (plugin: PluginName, given: O, name: keyof O & string, allowed: string): never {
  throw invalidOptionError(plugin, name, Reflect.get(given, name), allowed)
}
