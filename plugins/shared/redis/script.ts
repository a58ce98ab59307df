import { createHash } from 'node:crypto'
import { systemClock, type Clock } from '../plugin/clock.js'
import { onNode } from './cluster-nodes.js'
import type { TurnPipeline } from './micro-batch.js'
import type { CommandArgument, RedisPort } from './port.js'

/** A Lua script and the digest it is called by. */
export interface Script {
  readonly lua: string
  readonly sha1: string
  /** Whether its last argument is the time, see `timedLua`. */
  readonly isTimed: boolean
}

/** Creates a {@link Script} of a string, which editors take for Lua by this tag. */
export function lua (strings: TemplateStringsArray, ...values: Array<string | number>): Script {
  return scriptOf(String.raw(strings, ...values), false)
}

// The time is removed from the arguments, so that `#ARGV` and optional arguments at the end stay right.
const REDIS_TIME = `
local given_time = table.remove(ARGV)
local function redis_time ()
  if given_time == '' then return redis.call('TIME') end
  return { math.floor(given_time / 1000000), given_time % 1000000 }
end
`

/**
 * Creates a script that needs the time: its `redis_time()` returns seconds and microseconds, as `TIME` does. They are
 * Redis's own, as the clocks of instances differ. A test passes its own time as the last argument, which is empty
 * otherwise.
 */
export function timedLua (strings: TemplateStringsArray, ...values: Array<string | number>): Script {
  return scriptOf(REDIS_TIME + String.raw(strings, ...values), true)
}

/** Creates a {@link Script} of its text. @param isTimed - whether the text removes the time from its arguments */
export function scriptOf (source: string, isTimed: boolean): Script {
  return { lua: source, sha1: digestOf(source), isTimed }
}

/** Returns the digest that Redis knows the text of a script by. */
export function digestOf (source: string): string {
  return createHash('sha1').update(source).digest('hex')
}

/** Returns the argument that {@link timedLua} removes. */
function timeFor ({ isTimed }: Script, clock: Clock): string[] {
  return isTimed ? [clock.redisTime()] : []
}

/** Sends the text of a script that the server does not have (restart, failover, `SCRIPT FLUSH`). */
async function byDigestOrText (byDigest: () => Promise<unknown>, byText: () => Promise<unknown>): Promise<unknown> {
  try {
    return await byDigest()
  } catch (error) {
    if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
    return await byText()
  }
}

/**
 * Runs a script by its digest: one round trip.
 *
 * @param clock - the time of a script of {@link timedLua}
 */
export function sendScript (
  client: RedisPort, script: Script, keys: readonly string[], args: readonly CommandArgument[],
  clock: Clock = systemClock
): Promise<unknown> {
  return send(client, script, keys, args, clock, false)
}

/** Runs a script as {@link sendScript} does, and returns the texts of the reply as bytes. */
export function sendScriptForBytes (
  client: RedisPort, script: Script, keys: readonly string[], args: readonly CommandArgument[],
  clock: Clock = systemClock
): Promise<unknown> {
  return send(client, script, keys, args, clock, true)
}

function send (
  client: RedisPort, script: Script, keys: readonly string[], args: readonly CommandArgument[], clock: Clock,
  asBytes: boolean
): Promise<unknown> {
  const time = timeFor(script, clock)
  return onNode(client, keys[0] ?? '', () => byDigestOrText(
    () => client.send('evalsha', [script.sha1, keys.length, ...keys, ...args, ...time], asBytes),
    () => client.send('eval', [script.lua, keys.length, ...keys, ...args, ...time], asBytes)))
}

/**
 * Runs a script as {@link sendScript} does, together with the other commands of a turn's end.
 *
 * @param asBytes - whether texts of the reply are returned as bytes
 */
export function sendScriptIn (
  pipeline: TurnPipeline, script: Script, keys: readonly string[], args: readonly CommandArgument[],
  clock: Clock = systemClock, asBytes = false
): Promise<unknown> {
  const time = timeFor(script, clock)
  const [key = ''] = keys
  return byDigestOrText(
    () => pipeline.send(key, 'evalsha', [script.sha1, keys.length, ...keys, ...args, ...time], asBytes),
    () => pipeline.send(key, 'eval', [script.lua, keys.length, ...keys, ...args, ...time], asBytes))
}
