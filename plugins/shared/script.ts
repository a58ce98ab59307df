import { createHash } from 'node:crypto'
import type { RedisClient } from './client.js'
import { onNode } from './cluster-nodes.js'
import type { Turn } from './turn.js'

/** A Lua script and the digest it is called by. */
export interface Script {
  readonly lua: string
  readonly sha1: string
}

/** Tags a string as Lua, for editors, and makes a {@link Script} of it. */
export function lua (strings: TemplateStringsArray, ...values: Array<string | number>): Script {
  const source = String.raw(strings, ...values)
  return { lua: source, sha1: createHash('sha1').update(source).digest('hex') }
}

/** A server that does not have a script (restarted, failed over, `SCRIPT FLUSH`) gets its text once more. */
async function byDigestOrText (byDigest: () => Promise<unknown>, byText: () => Promise<unknown>): Promise<unknown> {
  try {
    return await byDigest()
  } catch (error) {
    if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
    return await byText()
  }
}

/** Runs a script by its digest: one round trip. */
export function runScript (
  client: RedisClient, script: Script, keys: readonly string[], args: ReadonlyArray<string | number | Buffer>
): Promise<unknown> {
  return onNode(client, keys[0] ?? '', () => byDigestOrText(
    () => client.evalsha(script.sha1, keys.length, ...keys, ...args),
    () => client.eval(script.lua, keys.length, ...keys, ...args)))
}

/** Runs a script that only reads, as {@link runScriptIn} does: what keeps writes waiting, a failover for one, does not keep it. Since Redis 7. */
export function readScriptIn (turn: Turn, script: Script, keys: readonly string[]): Promise<unknown> {
  return byDigestOrText(
    () => turn.ask(on => on.evalsha_ro(script.sha1, keys.length, ...keys)),
    () => turn.ask(on => on.eval_ro(script.lua, keys.length, ...keys)))
}

/** As {@link runScript}, together with what else is asked at the end of a turn. */
export function runScriptIn (turn: Turn, script: Script, keys: readonly string[], args: ReadonlyArray<string | number>): Promise<unknown> {
  return byDigestOrText(
    () => turn.ask(on => on.evalsha(script.sha1, keys.length, ...keys, ...args)),
    () => turn.ask(on => on.eval(script.lua, keys.length, ...keys, ...args)))
}

/** Both kinds of client have them, but their types do not say so; `callBuffer` loses its first argument where commands are pipelined. */
interface ForBytes {
  evalshaBuffer (...args: ReadonlyArray<string | number | Buffer>): Promise<unknown>
  evalBuffer (...args: ReadonlyArray<string | number | Buffer>): Promise<unknown>
}

/** As {@link runScript}; text in the reply comes as bytes. */
export function runScriptForBytes (
  client: RedisClient, script: Script, keys: readonly string[], args: ReadonlyArray<string | number | Buffer>
): Promise<unknown> {
  const forBytes = client as unknown as ForBytes
  return onNode(client, keys[0] ?? '', () => byDigestOrText(
    () => forBytes.evalshaBuffer(script.sha1, keys.length, ...keys, ...args),
    () => forBytes.evalBuffer(script.lua, keys.length, ...keys, ...args)))
}
