import { replyError } from '../../plugin/errors.js'
import type { CommandArgument } from '../port.js'
import { digestOf } from '../script.js'

/**
 * JSON has no bytes, only text. Each byte of an argument is sent as the character with its number, and a script turns
 * the UTF-8 of that character into the byte again. Redis therefore stores the same bytes as with other clients.
 */

/** Precedes a script. The last argument has the positions of the arguments that are bytes. */
const PROLOGUE = `do
  local bytes = {}
  for i = 128, 255 do
    local character = i < 192 and '\\194' .. string.char(i) or '\\195' .. string.char(i - 64)
    bytes[character] = string.char(i)
  end
  for i in string.gmatch(table.remove(ARGV), '%d+') do
    i = tonumber(i)
    ARGV[i] = string.gsub(ARGV[i], '[\\194\\195][\\128-\\191]', bytes)
  end
end;
`

const NOT_ASCII = /[\x80-\xff]/

/** The digests of scripts with the prologue, by those of the scripts. */
const digests = new Map<string, string>()

/** Runs a command whose arguments are bytes. Its key is one of the script, beside all arguments. */
const CALL = 'return redis.pcall(unpack(ARGV))'

/**
 * Returns the words of a command as texts. A command with arguments that are bytes is a script.
 *
 * @throws an error reply `NOSCRIPT` for the digest of a script whose text is not known yet
 */
export function wordsWithBytes (name: string, args: readonly CommandArgument[]): readonly string[] {
  const texts = args.map(arg => typeof arg === 'object' ? arg.toString('latin1') : String(arg))
  const positions = texts.flatMap((text, i) => typeof args[i] === 'object' && NOT_ASCII.test(text) ? [i] : [])
  if (positions.length === 0) return [name, ...texts]
  if (!name.startsWith('eval')) {
    return ['eval', PROLOGUE + CALL, '1', texts[0]!, name, ...texts, positions.map(i => i + 2).join()]
  }
  const [script, keyCount, ...rest] = texts as [string, string, ...string[]]
  const called = name.startsWith('evalsha') ? digestFor(script) : withPrologue(script)
  return [name, called, keyCount, ...rest, positions.map(i => i - 1 - Number(keyCount)).join()]
}

function digestFor (sha1: string): string {
  const digest = digests.get(sha1)
  if (digest === undefined) throw replyError('NOSCRIPT no text of this script was sent')
  return digest
}

function withPrologue (script: string): string {
  const called = PROLOGUE + script
  digests.set(digestOf(script), digestOf(called))
  return called
}
