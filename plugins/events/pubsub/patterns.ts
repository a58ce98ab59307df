import type { EventChannels } from 'fastify'
import { invalidArgumentError } from '../../shared/plugin/errors.js'

/** The type of a channel's messages: `unknown` if `EventChannels` does not declare the channel. */
export type ChannelData<C extends string> = C extends keyof EventChannels ? EventChannels[C] : unknown

type GlobType<P extends string> = P extends `${infer Head}*${infer Tail}` ? `${Head}${string}${GlobType<Tail>}` : P
type ChannelsOf<P extends string> = Extract<keyof EventChannels, GlobType<P>>

/** The type of a pattern's messages: for a glob, the union of the channels that it matches. */
export type PatternData<P extends string> = [ChannelsOf<P>] extends [never] ? unknown : EventChannels[ChannelsOf<P>]

/** The name of a channel, or a glob in which `*` matches any text. */
export interface Pattern {
  readonly text: string
  readonly isGlob: boolean
  /** The text before the first `*`. */
  readonly head: string
  matches (name: string): boolean
}

// UTF-8 cannot represent half a surrogate pair, so two names could become one.
const PATTERN = /^[^\p{Cc}\p{Surrogate}]{1,256}$/u

/** @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION` */
export function checkName (name: unknown): string {
  if (typeof name === 'string' && PATTERN.test(name) && !name.includes('*')) return name
  throw invalidArgumentError('events', 'channel', name, '1 to 256 characters, no control characters and no *')
}

/** @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION` */
export function parsePattern (text: unknown): Pattern {
  if (typeof text !== 'string' || !PATTERN.test(text)) {
    throw invalidArgumentError('events', 'pattern', text, '1 to 256 characters, no control characters')
  }
  const [head = '', ...rest] = text.split(/\*+/)
  if (rest.length === 0) return { text, isGlob: false, head, matches: name => name === text }
  return { text: [head, ...rest].join('*'), isGlob: true, head, matches: name => matchesParts(name, head, rest) }
}

// A regular expression would take time that grows with a power of the number of asterisks.
function matchesParts (name: string, head: string, rest: readonly string[]): boolean {
  if (!name.startsWith(head)) return false
  const tail = rest.at(-1) ?? ''
  let at = head.length
  for (const part of rest.slice(0, -1)) {
    const found = name.indexOf(part, at)
    if (found === -1) return false
    at = found + part.length
  }
  return at <= name.length - tail.length && name.endsWith(tail)
}
