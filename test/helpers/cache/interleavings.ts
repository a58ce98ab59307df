// Reads and writes of one cached source on several instances, in random order. The acknowledged writes determine which values a read may return.
import type { FastifyInstance } from 'fastify'
import type { DataCache, GetOrSetOptions } from '../../../plugins/cache/index.js'

export interface Chance {
  /** From 0 to below 1. */
  random (): number
  /** Waits for a random time, or not at all. */
  pause (): Promise<void>
}

/** A cached number that only grows. */
export class Source {
  readonly name: string
  value = 0
  /** The newest value that a write has acknowledged: older ones are obsolete. */
  told = 0
  readonly #chance: Chance
  readonly #onTold: () => void

  constructor (name: string, chance: Chance, onTold = () => {}) {
    this.name = name
    this.#chance = chance
    this.#onTold = onTold
  }

  /** Waits for a random time before and after. */
  async read (): Promise<number> {
    await this.#chance.pause()
    const { value } = this
    this.#failSometimes()
    await this.#chance.pause()
    return value
  }

  async write (): Promise<number> {
    await this.#chance.pause()
    this.#failSometimes()
    const value = ++this.value
    await this.#chance.pause()
    return value
  }

  tell (value: number): void {
    if (value <= this.told) return
    this.told = value
    this.#onTold()
  }

  /** From 1 to `most`. */
  several (most: number): number {
    return 1 + Math.floor(this.#chance.random() * most)
  }

  #failSometimes (): void {
    if (this.#chance.random() < 1 / 12) throw new Error('the source failed')
  }
}

/** @returns undefined if there is no value, or the source failed */
export type Read = (cache: DataCache, source: Source) => Promise<number | undefined>
/** @returns the acknowledged value; undefined if the source failed and nothing was written */
export type Write = (cache: DataCache, source: Source) => Promise<number | undefined>

const getOrSet = (options: (name: string) => GetOrSetOptions<number>): Read => async (cache, source) =>
  await cache.getOrSet(source.name, () => source.read(), options(source.name)).catch(() => undefined)
export const plain = getOrSet(() => ({}))
export const tagged = getOrSet(name => ({ tags: [name, 'all'] }))
const taggedLate = getOrSet(name => ({ tags: () => [name] }))
export const inPrefix = (read: Read | Write): Read => async (cache, source) => await read(cache.withPrefix(source.name), source)
// A stale value is served while it is revalidated, but not one that was invalidated.
const stale = getOrSet(name => ({ tags: [name], ttl: 4, staleWhileRevalidate: '1m', refreshAhead: 0.5 }))
export const get: Read = async (cache, { name }) => await cache.get<number>(name)
const getMany: Read = async (cache, { name }) => (await cache.getMany<number>(['none', name]))[1]

export const changed = (write: (cache: DataCache, source: Source) => Promise<unknown>): Write => async (cache, source) => {
  const value = ++source.value
  await write(cache, source)
  return value
}
const invalidateTags = changed(async (cache, { name }) => await cache.invalidateTags([name]))
const remove = changed(async (cache, { name }) => await cache.delete(name))
const removeMany = changed(async (cache, { name }) => await cache.deleteMany(['none', name]))
const removeMatching = changed(async (cache, { name }) => await cache.invalidatePattern(`${name.slice(0, -1)}?`))
const clear = changed(async cache => await cache.clear())
// One at a time: concurrent writers cannot know which value is newer.
const set = changed(async (cache, { name, value }) => await cache.set(name, value, { tags: [name] }))
const setMany = changed(async (cache, { name, value }) => await cache.setMany([['other', 0], [name, value, { tags: [name] }]]))
const writeThrough: Write = async (cache, source) =>
  await cache.writeThrough<number>(source.name, -1, () => source.write(), { tags: [source.name] }).catch(() => undefined)
/** Several concurrent writes, which the source executes in any order. */
const writeThroughs: Write = async (cache, source) => {
  const written = await Promise.all(Array.from({ length: source.several(3) }, async () => await writeThrough(cache, source)))
  return Math.max(...written.map(value => value ?? 0)) || undefined
}

export const KINDS: Record<string, Actions> = {
  tag: { reads: [tagged], writes: [invalidateTags] },
  'late tag': { reads: [taggedLate], writes: [invalidateTags] },
  delete: { reads: [plain, get], writes: [remove, removeMany] },
  set: { reads: [plain, get, getMany], writes: [set, setMany] },
  writeThrough: { reads: [plain, get, getMany], writes: [writeThroughs] },
  stale: { reads: [stale], writes: [invalidateTags, writeThroughs] },
  prefix: { reads: [inPrefix(plain), inPrefix(tagged)], writes: [inPrefix(clear), inPrefix(writeThroughs), inPrefix(remove)] },
  all: { reads: [tagged, taggedLate, get, getMany], writes: [invalidateTags, set, setMany, writeThroughs] }
}
// It scans every key, so it is used less.
export const PATTERN = { reads: [plain, tagged, get], writes: [removeMatching] }

export type Actions = { reads: Read[], writes: Write[] }

/** The number of obsolete responses, by kind. */
export interface Seen {
  answers: number
  obsolete: Array<{ kind: string, value: number, told: number }>
}

export const createSeen = (): Seen => ({ answers: 0, obsolete: [] })

export function anyOf<T> (list: readonly T[], { random }: Chance): T {
  return list[Math.floor(random() * list.length)] as T
}

/** Runs rounds of reads and a write, on random instances at random moments; reads of one round may extend into the next. */
export async function play (apps: FastifyInstance[], source: Source, rounds: number, seen: Seen, chance: Chance, kind: string, { reads, writes }: Actions = KINDS[kind] ?? PATTERN): Promise<void> {
  const pending = new Set<Promise<unknown>>()
  const ask = async () => {
    const { told } = source
    const value = await anyOf(reads, chance)(anyOf(apps, chance).cache, source)
    if (value === undefined) return
    seen.answers++
    if (!(value >= told)) seen.obsolete.push({ kind, value, told })
  }
  const start = () => {
    const asking = ask().finally(() => pending.delete(asking))
    pending.add(asking)
  }
  for (let round = 0; round < rounds; round++) {
    start()
    if (chance.random() < 0.5) start()
    await chance.pause()
    // From here on, an older response is obsolete.
    source.tell(await anyOf(writes, chance)(anyOf(apps, chance).cache, source) ?? 0)
    start()
    if (pending.size > 6) await Promise.all(pending)
  }
  await Promise.all(pending)
}

export function used (apps: FastifyInstance[]): Record<'hits' | 'l1Hits' | 'coalesced' | 'stored' | 'storeErrors', number> {
  const total = { hits: 0, l1Hits: 0, coalesced: 0, stored: 0, storeErrors: 0 }
  for (const { cache } of apps) for (const name of Object.keys(total) as Array<keyof typeof total>) total[name] += cache.stats()[name]
  return total
}
