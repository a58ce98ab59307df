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
  /** Whether `null` means that the option is left out. */
  readonly nullIsDefault?: boolean
  readonly isRequired?: boolean
  /** What an error states in place of a refused value that it must not repeat, such as a password. */
  readonly secret?: string
  /** The default in the form that the plugin uses. */
  readonly resolvedDefault: Value
  /** Returns the value in the form that the plugin uses, or `undefined` if it is not allowed. */
  parse (given: unknown, plugin: PluginName): Value | undefined
}

/**
 * All options of the type `O` by name. The compiler refuses a table that lacks an option, has an extra one, or has a
 * default of another type. Validation, suggestions for a misspelt name, defaults and the tables of the docs come from
 * it.
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
export function resolveOptions<T extends Rows> (
  plugin: PluginName, table: T, given: object, defaults?: Partial<Resolved<T>>
): Resolved<T> {
  checkNames(plugin, table, given)
  return readOptions(plugin, table, given, defaults)
}

/**
 * Checks the names of options, as a misspelt option would have no effect.
 *
 * @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` for a name that is not in the table
 */
export function checkNames (plugin: PluginName, table: object, given: object): void {
  // A program in JavaScript may pass anything.
  if (typeof given !== 'object' || given === null) throw invalidArgumentError(plugin, 'options', given, 'an object')
  const unknown = Object.keys(given).find(name => !Object.hasOwn(table, name) && !FASTIFY_OPTIONS.includes(name))
  if (unknown !== undefined) throw unknownOptionError(plugin, unknown, Object.keys(table))
}

/** Reads options as {@link resolveOptions} does, from an object that may have other properties as well. */
export function readOptions<T extends Rows> (
  plugin: PluginName, table: T, given: object, defaults?: Partial<Resolved<T>>
): Resolved<T> {
  const values: Record<string, unknown> = {}
  for (const name in table) values[name] = readOption(plugin, name, table[name]!, given, defaults?.[name])
  return values as Resolved<T>
}

/** @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` */
export function readOption<Value> (
  plugin: PluginName, name: string, option: Option<unknown, Value>, given: object, fallback?: Value
): Value {
  const value: unknown = Reflect.get(given, name)
  const isLeftOut = value === undefined || (value === null && option.nullIsDefault)
  if (isLeftOut && !option.isRequired) return fallback ?? option.resolvedDefault
  const parsed = option.parse(value, plugin)
  if (parsed !== undefined) return parsed
  const isHidden = option.secret !== undefined && value !== undefined
  throw invalidOptionError(plugin, name, isHidden ? new InWords(option.secret) : value, option.allowed)
}

/** Throws the error of an option whose value is valid by itself, but not together with another option. */
export function refuseOption<O extends object> (
  plugin: PluginName, given: O, name: keyof O & string, allowed: string
): never {
  throw invalidOptionError(plugin, name, Reflect.get(given, name), allowed)
}
