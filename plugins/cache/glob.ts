/**
 * A pattern as Redis has it: `*` any text, `?` any one character, `[ab]`, `[a-z]`, `[^a]` one of these or none of them, and
 * `\` takes the meaning of what follows it.
 */
export function compileGlob (glob: string): (text: string) => boolean {
  let source = ''
  for (const [token] of glob.matchAll(/\\[^]|\[\^?(?:\\[^]|[^\]\\])+\]|[^]/gu)) {
    if (token === '*') source += '.*'
    else if (token === '?') source += '.'
    else if (token.length > 2 && token.startsWith('[')) source += setOf(token)
    else source += escape(token.length > 1 && token.startsWith('\\') ? token.slice(1) : token)
  }
  const pattern = new RegExp(`^${source.replaceAll(/(?:\.\*){2,}/g, '.*')}$`, 'su')
  return text => pattern.test(text)
}

/** A text that stands for itself in a pattern. */
export function escapeGlob (text: string): string {
  return text.replaceAll(/[\\*?[\]^-]/gu, '\\$&')
}

function setOf (token: string): string {
  const isNegated = token.startsWith('[^')
  const members = token.slice(isNegated ? 2 : 1, -1)
  const ranges = [...members.matchAll(/\\([^])|([^])-\\?([^])|([^])/gu)].map(([, escaped, from, to, one]) =>
    from !== undefined && to !== undefined ? [from, to].sort(byCodePoint).map(escapeMember).join('-') : escapeMember(escaped ?? one ?? ''))
  return `[${isNegated ? '^' : ''}${ranges.join('')}]`
}

function byCodePoint (a: string, b: string): number {
  return (a.codePointAt(0) ?? 0) - (b.codePointAt(0) ?? 0)
}

function escapeMember (text: string): string {
  return text.replaceAll(/[\\^\][-]/gu, '\\$&')
}

function escape (text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|/]/gu, '\\$&')
}
