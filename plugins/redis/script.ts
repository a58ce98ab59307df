import calculateSlot from 'cluster-key-slot'
import { InWords, invalidArgumentError, invalidOptionError, unknownOptionError } from '../shared/plugin/errors.js'
import { checkNames } from '../shared/plugin/option-table.js'
import type { RedisPort } from '../shared/redis/port.js'
import { scriptOf, sendScript, type Script } from '../shared/redis/script.js'
import { guarded, resolveCall, type AppWithRedis } from './call.js'
import type { RedisCallOptions } from './options.js'

/** `'number'` is a Lua number in the script, `'string'` a Lua string, which also holds bytes. */
export type ScriptArgumentType = 'string' | 'number'

type ArgumentTypes = Readonly<Record<string, ScriptArgumentType>>

/** The arguments that a script is called with, by name. */
export type ScriptArguments<Args extends ArgumentTypes> = {
  readonly [Name in keyof Args]: Args[Name] extends 'number' ? number : string | Buffer
}

/** The parts of a script, for {@link defineScript}. */
export interface ScriptDefinition<Key extends string, Args extends ArgumentTypes, Reply> {
  /** The script. Each key and each argument is a local variable of its name. */
  lua: string
  /** The names of the keys, at least one. On a Cluster all keys of a call must be in one slot. */
  keys: readonly [Key, ...Key[]]
  /** The names of the arguments, each with its type in the script. @default none */
  args?: Args | undefined
  /**
   * Converts Redis's reply (a string, a whole number, `null` for Lua's `nil` and `false`, or a list) to the result of a
   * call.
   *
   * @default the reply
   */
  reply?: ((raw: unknown) => Reply) | undefined
  /**
   * Whether the script has a variable `now`: Redis's time in milliseconds since the epoch, or that of a test's clock.
   *
   * @default false
   */
  time?: boolean | undefined
}

/** A Lua script with named keys and arguments, and a typed reply. */
export interface RedisScript<Key extends string = string, Args extends ArgumentTypes = ArgumentTypes, Reply = unknown>
  extends Script {
  readonly keys: readonly Key[]
  readonly args: Args
  readonly reply: ((raw: unknown) => Reply) | undefined
}

/**
 * Defines a Lua script once, for {@link runScript}.
 *
 * @throws `FST_REDIS_SUITE_REDIS_INVALID_OPTION`
 * @see https://redis.io/docs/latest/develop/programmability/eval-intro/
 *
 * @example
 * const takeStock = defineScript({
 *   keys: ['stock'],
 *   args: { amount: 'number' },
 *   lua: `
 *     local left = tonumber(redis.call('GET', stock)) or 0
 *     if left < amount then return nil end
 *     return redis.call('DECRBY', stock, amount)`,
 *   reply: left => left === null ? undefined : Number(left)
 * })
 */
export function defineScript<const Key extends string, const Args extends ArgumentTypes = {}, Reply = unknown> (
  definition: ScriptDefinition<Key, Args, Reply>
): RedisScript<Key, Args, Reply> {
  checkNames('redis', DEFINITION, definition)
  const { keys, args = {} as Args, reply, time = false } = definition
  checkDefinition(definition)
  checkVariables(keys, args)
  const { lua, sha1, isTimed } = scriptOf(withVariables(definition.lua, keys, args, time), time)
  return Object.freeze({ keys, args, reply, lua, sha1, isTimed })
}

/**
 * Runs a script: one round trip, atomic in Redis, with the deadline and circuit breaker of {@link callRedis}. A server
 * that does not know the script, as after a restart, gets its text. A script may be executed although its call
 * rejects, and twice if the connection breaks: where this matters, pass an id that the script remembers.
 *
 * @param keys - the key for each name of the definition
 * @param args - the value for each name of the definition
 * @throws `FST_REDIS_SUITE_REDIS_STORE_UNAVAILABLE` (503), `FST_REDIS_SUITE_REDIS_INVALID_OPTION`; Redis's own error if
 * the script fails
 *
 * @example
 * const left = await runScript(app, takeStock, { stock: `stock:${id}` }, { amount: 2 })
 */
export async function runScript<Key extends string, Args extends ArgumentTypes, Reply> (
  app: AppWithRedis, script: RedisScript<Key, Args, Reply>, keys: Readonly<Record<Key, string>>,
  ...[args, options = {}]: {} extends ScriptArguments<Args>
    ? [args?: ScriptArguments<Args>, options?: RedisCallOptions]
    : [args: ScriptArguments<Args>, options?: RedisCallOptions]
): Promise<Reply> {
  const keyList = listKeys(script, keys)
  const values = listArguments(script, args ?? {})
  const call = resolveCall(app, options)
  checkSlots(call.client, script, keyList)
  const raw = await guarded(call, () => sendScript(call.client, script, keyList, values, call.clock))
  return script.reply === undefined ? raw as Reply : script.reply(raw)
}

const DEFINITION = {
  lua: true, keys: true, args: true, reply: true, time: true
} satisfies Record<keyof ScriptDefinition<string, {}, unknown>, true>

function checkDefinition (
  { lua, keys, args, reply, time }: { [Name in keyof ScriptDefinition<string, {}, unknown>]: unknown }
): void {
  if (typeof lua !== 'string' || lua.trim() === '') {
    throw invalidOptionError('redis', 'lua', lua, 'the text of a script')
  }
  if (!Array.isArray(keys) || keys.length === 0) {
    throw invalidOptionError('redis', 'keys', keys, 'a list of at least one name')
  }
  if (args !== undefined && (typeof args !== 'object' || args === null || Array.isArray(args))) {
    throw invalidOptionError('redis', 'args', args, "an object with a type for each name, 'string' or 'number'")
  }
  if (reply !== undefined && typeof reply !== 'function') {
    throw invalidOptionError('redis', 'reply', reply, 'a function')
  }
  if (time !== undefined && typeof time !== 'boolean') throw invalidOptionError('redis', 'time', time, 'true or false')
}

const NAME = /^[A-Za-z_]\w{0,63}$/
const NAME_ALLOWED = 'names of Lua variables, each another one and none that Lua or Redis defines'
const TAKEN = new Set((
  'and break do else elseif end false for function goto if in local nil not or repeat return then true until while ' +
  'KEYS ARGV redis server cjson cmsgpack bit struct os math string table now ' +
  'assert error ipairs next pairs pcall select tonumber tostring type unpack xpcall').split(' '))
/** Lua allows 200 local variables in a function; the script has some of its own. */
const MAX_NAMES = 100

function checkVariables (keys: readonly string[], args: ArgumentTypes): void {
  const names = new Set<string>()
  const check = (option: string, name: unknown): void => {
    if (typeof name === 'string' && NAME.test(name) && !TAKEN.has(name) && !names.has(name) &&
      names.size < MAX_NAMES) names.add(name)
    else throw invalidOptionError('redis', option, name, NAME_ALLOWED)
  }
  for (const name of keys) check('keys', name)
  for (const [name, type] of Object.entries(args)) {
    check('args', name)
    if (type !== 'string' && type !== 'number') {
      throw invalidOptionError('redis', `args.${name}`, type, "'string' or 'number'")
    }
  }
}

/** Redis sends the arguments as strings. The time is the last one, or empty for Redis's own. */
const NOW = "local now = table.remove(ARGV) if now == '' then now = redis.call('TIME') now = now[1] * 1000 + " +
  'math.floor(now[2] / 1000) ' +
  'else now = math.floor(now / 1000) end '

/**
 * Declares the variables before the script, on the script's first line, so that errors name its own lines. The
 * semicolon separates them from a script that begins with a parenthesis, which Lua would take for a call.
 */
function withVariables (lua: string, keys: readonly string[], args: ArgumentTypes, isTimed: boolean): string {
  const [, shebang = '', body = ''] = /^(\s*#![^\n]*\n)?([^]*)$/.exec(lua) ?? []
  const forKeys = keys.map((name, i) => `local ${name} = KEYS[${i + 1}]; `)
  const forArguments = Object.entries(args).map(([name, type], i) =>
    `local ${name} = ${type === 'number' ? `tonumber(ARGV[${i + 1}])` : `ARGV[${i + 1}]`}; `)
  return `${shebang.trimStart()}${isTimed ? NOW : ''}${[...forKeys, ...forArguments].join('')}${body}`
}

function listKeys ({ keys: names }: RedisScript, keys: Readonly<Record<string, unknown>>): string[] {
  refuseUnknown(keys, 'keys', names)
  return names.map(name => {
    const key = keys[name]
    if (typeof key !== 'string' || key === '') {
      throw invalidArgumentError('redis', `keys.${name}`, key, 'a string that is not empty')
    }
    return key
  })
}

function listArguments ({ args: types }: RedisScript, args: Readonly<Record<string, unknown>>): Array<string | Buffer> {
  refuseUnknown(args, 'args', Object.keys(types))
  return Object.entries(types).map(([name, type]) => {
    const value = args[name]
    if (type === 'number') {
      if (typeof value !== 'number' || !Number.isFinite(value)) {
        throw invalidArgumentError('redis', `args.${name}`, value, 'a number that is finite')
      }
      return String(value)
    }
    if (typeof value !== 'string' && !Buffer.isBuffer(value)) {
      throw invalidArgumentError('redis', `args.${name}`, value, 'a string or a Buffer')
    }
    return value
  })
}

function refuseUnknown (given: unknown, argument: 'keys' | 'args', names: readonly string[]): void {
  if (typeof given !== 'object' || given === null) {
    throw invalidArgumentError('redis', argument, given, `an object with ${names.join(', ')}`)
  }
  const unknown = Object.keys(given).find(name => !names.includes(name))
  if (unknown !== undefined) throw unknownOptionError('redis', unknown, names, argument === 'keys' ? 'key' : 'argument')
}

/** Names the key that Redis would refuse without a name, as `CROSSSLOT`. */
function checkSlots (
  { topology, keyPrefix: prefix }: RedisPort, { keys: names }: RedisScript, keys: readonly string[]
): void {
  if (keys.length < 2 || topology === undefined) return
  const slot = calculateSlot(prefix + keys[0])
  const other = keys.findIndex(key => calculateSlot(prefix + key) !== slot)
  if (other < 0) return
  throw invalidArgumentError('redis', `keys.${names[other]}`, new InWords('in another slot'),
    `in the slot of keys.${names[0]}: give the keys of a call the same hash tag, as in stock:{7} and buyers:{7}`)
}
