import { normalizeSelecting } from '../rfc/vary.js'
import { StatsCounter } from '../stats.js'
import { CacheKey } from '../store/cache-key.js'
import type { VariantsMeta } from '../store/entry.js'

export interface ResponseKeyParts {
  /** Undefined where all hosts have the same answers. */
  host: string | undefined
  /** As it was asked for, without the query. */
  path: string
  query: string
  /** Path and query before `rewriteUrl`; undefined where it has changed nothing. */
  original?: readonly [path: string, query: string] | undefined
  /** Which of several routes of one path it is. */
  constraints: string
  /** Names and values of the headers that the route varies by. */
  vary: ReadonlyArray<readonly [name: string, value: string]>
  /** Whose answer it is; undefined: everybody's. */
  owner: string | undefined
}

/** Two requests share a key only if all parts are the same; the order of different names in a query is none. */
export function responseKey (parts: ResponseKeyParts, counts?: StatsCounter): CacheKey {
  const { path } = parts
  const query = sortQuery(parts.query)
  return new CacheKey(textOf(parts, query), query === '' ? path : `${path}?${query}`, counts)
}

/** @param query - sorted */
function textOf ({ host, path, original, constraints, vary, owner }: ResponseKeyParts, query: string): string {
  // The same text as below, of which most requests need little: in half the time.
  if (host === undefined && owner === undefined && vary.length === 0 && constraints === '' && original === undefined) {
    return `["response",null,${JSON.stringify(path)},${JSON.stringify(query)},"",[],null]`
  }
  const parts: unknown[] = ['response', host ?? null, path, query, constraints, vary, owner ?? null]
  if (original !== undefined) parts.push(original[0], sortQuery(original[1]))
  return JSON.stringify(parts)
}

/** Sorted by name as it is read, however it is spelt: equal names, and those that a parser may nest in one, keep their order. */
function sortQuery (query: string): string {
  if (!query.includes('&')) return query
  const nameOf = (pair: string) => parameterName(pair).split('[', 1)[0] ?? ''
  return query.split('&').map(pair => [nameOf(pair), pair] as const).sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0).map(([, pair]) => pair).join('&')
}

/** The name of a pair as the router's own parser reads it. */
export function parameterName (pair: string): string {
  const name = (pair.split('=', 1)[0] ?? '').replaceAll('+', ' ')
  try {
    return decodeURIComponent(name)
  } catch {
    return name
  }
}

/** Of one of several answers that a key has, by the request's headers. */
export function variantKey (key: CacheKey, { names, nonce }: VariantsMeta, headers: Record<string, string | string[] | undefined>): CacheKey {
  return new CacheKey(JSON.stringify(['variant', key.id, nonce, names.map(name => normalizeSelecting(name, headers[name]))]), key.label, key.counts)
}
