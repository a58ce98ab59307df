import type { Entry } from './entry.js'
import type { CasToken } from './entry-codec.js'
import { ALL_TAG, type FillStart, type ReadResult } from './store.js'

/** Below this number a list is searched faster than a map is made. */
const FEW = 8

type Version = Buffer | string | null | undefined

/** The versions of tags as they were read. */
export class ReadVersions {
  readonly #tags: readonly string[]
  readonly #values: readonly Version[]
  #byTag: Map<string, Version> | undefined

  /** @param values - in the order of the tags */
  constructor (tags: readonly string[], values: readonly Version[]) {
    this.#tags = tags
    this.#values = values
  }

  has (tag: string): boolean {
    return this.#tags.length < FEW ? this.#tags.includes(tag) : this.#map.has(tag)
  }

  /** @returns undefined for a tag without a version */
  of (tag: string): string | undefined {
    return textOf(this.#tags.length < FEW ? this.#values[this.#tags.indexOf(tag)] : this.#map.get(tag))
  }

  with (tags: readonly string[], values: readonly Version[]): ReadVersions {
    return new ReadVersions([...this.#tags, ...tags], [...this.#values, ...values])
  }

  toRecord (): Record<string, string | undefined> {
    return Object.fromEntries(this.#tags.map((tag, i) => [tag, textOf(this.#values[i])]))
  }

  get #map (): ReadonlyMap<string, Version> {
    this.#byTag ??= new Map(this.#tags.map((tag, i) => [tag, this.#values[i]]))
    return this.#byTag
  }
}

function textOf (version: Version): string | undefined {
  return Buffer.isBuffer(version) ? version.toString('latin1') : version ?? undefined
}

/** Returns the tags of an entry whose versions have not been read yet. */
export function missingTags ({ tags }: Entry, known: ReadVersions): readonly string[] | undefined {
  let missing: string[] | undefined
  for (const tag in tags) if (!known.has(tag)) (missing ??= []).push(tag)
  return missing
}

/** Whether none of the entry's tags has been invalidated since its fill began. */
export function isValid ({ tags }: Entry, known: ReadVersions): boolean {
  for (const tag in tags) if (known.of(tag) !== tags[tag]) return false
  return ALL_TAG in tags
}

/**
 * Computes the versions only where they are used: on a hit they are not, and the object costs as much as two keys that
 * are read.
 */
export class RedisReadResult implements ReadResult {
  readonly entry: Entry | undefined
  readonly token: CasToken
  readonly acquired: FillStart | undefined
  readonly #known: ReadVersions
  #versions: Readonly<Record<string, string | undefined>> | undefined

  constructor (entry: Entry | undefined, token: CasToken, known: ReadVersions, acquired?: FillStart) {
    this.entry = entry
    this.token = token
    this.acquired = acquired
    this.#known = known
  }

  get versions (): Readonly<Record<string, string | undefined>> {
    this.#versions ??= this.#known.toRecord()
    return this.#versions
  }
}
