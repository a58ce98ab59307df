// The local search: how texts become terms, and which results come first. VitePress sends these functions to the
// browser as their source, so they use nothing outside of themselves.
import type { DefaultTheme } from 'vitepress'

/**
 * Splits a text into terms. A name is a term as a whole and in parts: `staleWhileRevalidate` and `Retry-After` are
 * found by each of their words, and `FST_REDIS_SUITE_LOCK_LOST` by `LOCK_LOST`. The start that all error codes have in
 * common is no term.
 */
export function tokenize (text: string): string[] {
  const words: string[] = text.match(/[\p{L}\p{N}_]+(?:-[\p{L}\p{N}_]+)*/gu) ?? []
  return words.flatMap(word => {
    const name = word.replace(/^FST_REDIS_SUITE_/i, '')
    const parts = name.split(/[_-]+|(?<=[\p{Ll}\p{N}])(?=\p{Lu})/u).filter(part => part !== '')
    return [...new Set([word, name, ...parts])]
  })
}

/** Splits a query: an error code is one term, as its parts are on many pages. */
export function tokenizeQuery (query: string): string[] {
  const words: string[] = query.match(/[\p{L}\p{N}_]+(?:-[\p{L}\p{N}_]+)*/gu) ?? []
  return words.flatMap(word => {
    const parts = /^FST_/i.test(word)
      ? []
      : word.split(/[_-]+|(?<=[\p{Ll}\p{N}])(?=\p{Lu})/u).filter(part => part !== '')
    return [...new Set([word, ...parts])]
  })
}

/** Pages of problems come first, then those that explain, the reference, and the history. */
export function boostDocument (id: string): number {
  if (/\/(?:errors|troubleshooting)(?:#|$)/.test(id)) return 1.5
  if (id.includes('/changelog')) return 0.1
  return id.includes('/api/') ? 0.4 : 1
}

/** A misspelt word is found. A long name would match other names. */
export function fuzzy (term: string): number | boolean {
  return term.length < 4 || term.length > 16 ? false : 0.2
}

type MiniSearchOptions = NonNullable<NonNullable<DefaultTheme.LocalSearchOptions['miniSearch']>>

export const miniSearch: MiniSearchOptions = {
  options: { tokenize },
  searchOptions: {
    tokenize: tokenizeQuery, boostDocument, fuzzy, prefix: true, boost: { title: 4, text: 2, titles: 1 }
  }
}
