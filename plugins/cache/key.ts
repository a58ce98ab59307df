import { hashId } from '../shared/keys.js'

export interface KeyParts {
  /** As it was asked for, without the query. */
  path: string
  query: string
  /** Names and values of the headers that the answer varies by. */
  vary: ReadonlyArray<readonly [name: string, value: string]>
  /** Whose answer it is; undefined: everybody's. */
  owner: string | undefined
}

/** The digest under which an answer is kept. Two requests share it only if all parts are the same; the order of a query is none. */
export function responseKey ({ path, query, vary, owner }: KeyParts): string {
  // Equal names keep their order, which may mean something.
  const pairs = [...new URLSearchParams(query)].sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
  return hashId(JSON.stringify(['response', path, pairs, vary, owner ?? null]))
}

export function dataKey (key: string): string {
  return hashId(JSON.stringify(['data', key]))
}
