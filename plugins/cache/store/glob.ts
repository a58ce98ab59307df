/** A glob is no longer than this: comparing it with a text takes at most as many steps as the product of both lengths. */
export const MAX_GLOB_LENGTH = 1024

const ANY_TEXT = 'any text'

/** The characters that one place of a pattern accepts, or rejects, as ranges of code points. */
interface CharacterSet {
  isNegated: boolean
  ranges: ReadonlyArray<readonly [from: number, to: number]>
}

type Token = CharacterSet | typeof ANY_TEXT

const ANY_CHARACTER: CharacterSet = { isNegated: true, ranges: [] }

/**
 * Compiles a pattern with Redis's syntax: `*` any text, `?` any one character, `[ab]`, `[a-z]`, `[^a]` one of these or none of them, and
 * `\` takes the meaning of the character that follows it.
 *
 * It is not compiled to a regular expression: the time of one grows with a power of the number of asterisks, and clients choose the texts.
 */
export function compileGlob (glob: string): (text: string) => boolean {
  const tokens = [...glob.matchAll(/\\[^]|\[\^?(?:\\[^]|[^\]\\])+\]|[^]/gu)].map(([text]) => tokenOf(text))
  return text => matches(tokens, text)
}

/** Escapes a text so that it stands for itself in a pattern. */
export function escapeGlob (text: string): string {
  return text.replaceAll(/[\\*?[\]^-]/gu, '\\$&')
}

/** After a mismatch only the last asterisk takes one character more: an earlier one could not find a better place for what follows it. */
function matches (tokens: readonly Token[], text: string): boolean {
  let at = 0
  let next = 0
  let lastAsterisk = -1
  let retryAt = 0
  while (at < text.length) {
    const token = tokens[next]
    if (token === ANY_TEXT) {
      lastAsterisk = next++
      retryAt = at
      continue
    }
    const character = text.codePointAt(at) ?? 0
    if (token !== undefined && accepts(token, character)) {
      at += lengthOf(character)
      next++
    } else {
      if (lastAsterisk === -1) return false
      retryAt += lengthOf(text.codePointAt(retryAt) ?? 0)
      at = retryAt
      next = lastAsterisk + 1
    }
  }
  while (tokens[next] === ANY_TEXT) next++
  return next === tokens.length
}

function accepts ({ isNegated, ranges }: CharacterSet, character: number): boolean {
  for (const [from, to] of ranges) if (character >= from && character <= to) return !isNegated
  return isNegated
}

function lengthOf (character: number): number {
  return character > 0xffff ? 2 : 1
}

function tokenOf (text: string): Token {
  if (text === '*') return ANY_TEXT
  if (text === '?') return ANY_CHARACTER
  if (text.length > 2 && text.startsWith('[')) return setOf(text)
  return { isNegated: false, ranges: [rangeOf(text.length > 1 && text.startsWith('\\') ? text.slice(1) : text)] }
}

function setOf (text: string): CharacterSet {
  const isNegated = text.startsWith('[^')
  const members = text.slice(isNegated ? 2 : 1, -1)
  const ranges = [...members.matchAll(/\\([^])|([^])-\\?([^])|([^])/gu)].map(([, escaped, from, to, one]) =>
    from !== undefined && to !== undefined ? rangeOf(from, to) : rangeOf(escaped ?? one ?? ''))
  return { isNegated, ranges }
}

function rangeOf (one: string, other = one): [number, number] {
  const [a, b] = [one.codePointAt(0) ?? 0, other.codePointAt(0) ?? 0]
  return [Math.min(a, b), Math.max(a, b)]
}
