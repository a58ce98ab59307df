import { LRUCache } from 'lru-cache'
import type { RedisPort } from '../../shared/redis/port.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { onNode } from '../../shared/redis/cluster-nodes.js'
import { keySpace, safeId } from '../../shared/plugin/keys.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { sendScript, type Script } from '../../shared/redis/script.js'
import { isBatchRefusal } from '../../shared/redis/micro-batch.js'
import { randomText } from './entry-codec.js'
import { createVersionsScript, invalidateScript, retainVersionsScript } from './scripts.js'
import { ALL_TAG, FIRST_VERSION, PATTERN_TAG, TOMBSTONE_MS } from './store.js'

/**
 * How long a version is kept that no stored entry uses. A fill that began before an invalidation is not stored after
 * `TOMBSTONE_MS`, so the version may expire then: entries with an earlier version stay invalid, as no version equals a
 * missing one.
 */
export const UNUSED_TTL_MS = 1.5 * TOMBSTONE_MS
/** A path tag whose key needs no digest, which would cost each hit a microsecond. */
const PLAIN_PATH = /^\0\/[\w.@:/-]{0,100}$/
const MAX_REMEMBERED = 10_000

interface KnownVersion {
  version: string
  /** Until when Redis keeps it at least, by the clock's `monotonic()`. */
  keptUntil: number
}

/**
 * The versions of tags. Each version is a key in Redis, and an entry carries the versions of its tags. A version that
 * is lost (expired, evicted, flushed) equals no other, so that losing one costs misses and never a stale response.
 */
export class TagVersions {
  readonly #client: RedisPort
  readonly #clock: Clock
  readonly #space: string
  readonly #pathSpace: string
  readonly #allKey: string
  readonly #patternKey: string
  /** The versions that were read last. Most of them are still current. */
  readonly #latest = new LRUCache<string, KnownVersion>({ max: MAX_REMEMBERED })
  /** Whether one script cannot name several keys. */
  #isApart: boolean

  constructor (client: RedisPort, prefix: string, clock: Clock) {
    this.#client = client
    this.#clock = clock
    this.#space = keySpace(prefix, 'cache', 'tag')
    this.#pathSpace = keySpace(prefix, 'cache', 'path')
    this.#allKey = this.#space + safeId(ALL_TAG)
    this.#patternKey = this.#space + safeId(PATTERN_TAG)
    this.#isApart = client.topology !== undefined
  }

  keyOf (tag: string): string {
    if (tag === ALL_TAG) return this.#allKey
    if (tag === PATTERN_TAG) return this.#patternKey
    return PLAIN_PATH.test(tag) ? this.#pathSpace + tag.slice(2) : this.#space + safeId(tag)
  }

  keysOf (tags: readonly string[]): string[] {
    return tags.map(tag => this.keyOf(tag))
  }

  /**
   * Remembers versions that were read. A hit need not call it: an outdated version costs another round trip, and never
   * a stale response.
   */
  rememberAll (versions: Readonly<Record<string, string | undefined>>): void {
    for (const tag in versions) this.#remember(tag, versions[tag])
  }

  /** Returns the versions that the tags had at the last read, or undefined where one is not known. */
  guess (tags: readonly string[]): Record<string, string> | undefined {
    const known = tags.map(tag => [tag, this.#latest.get(tag)?.version ?? ''] as const)
    return known.every(([, version]) => version !== '') ? Object.fromEntries(known) : undefined
  }

  /** Reads the versions of tags, and creates one for each tag without. */
  async create (tags: readonly string[]): Promise<Record<string, string>> {
    if (tags.length === 0) return {}
    const created = this.initial()
    const keptUntil = this.#clock.monotonic() + UNUSED_TTL_MS
    const versions = (await this.#run(createVersionsScript, tags, () => [created, UNUSED_TTL_MS])).map(String)
    this.rememberCreated(tags, versions, created, keptUntil)
    return Object.fromEntries(tags.map((tag, i) => [tag, versions[i] ?? '']))
  }

  /** Returns a version for tags without one. */
  initial (): string {
    return `${FIRST_VERSION}${randomText(12)}`
  }

  /**
   * Remembers versions that were read, or created where there was none.
   *
   * @param keptUntil - until when Redis keeps a created version, by the clock's `monotonic()`
   */
  rememberCreated (tags: readonly string[], versions: readonly string[], created: string, keptUntil: number): void {
    for (const [i, tag] of tags.entries()) {
      if (versions[i] === created) this.#latest.set(tag, { version: created, keptUntil })
      else this.#remember(tag, versions[i])
    }
  }

  /**
   * Makes Redis keep versions as long as an entry that uses them. Nothing is sent where this process knows that it
   * does.
   *
   * @returns whether all versions that were sent are still current
   */
  async retain (versions: Readonly<Record<string, string>>, ttl: Milliseconds): Promise<boolean> {
    const now = this.#clock.monotonic()
    const tags = this.#unretained(versions, now + ttl)
    if (tags === undefined) return true
    // Longer than this entry needs, so that the next ones send nothing.
    const minTtl = Math.ceil(ttl + UNUSED_TTL_MS)
    const argsOf = (some: readonly string[]) => [minTtl, ...some.map(tag => versions[tag] ?? '')]
    const replies = await this.#run(retainVersionsScript, tags, argsOf)
    const keptUntil = now + ttl + UNUSED_TTL_MS
    for (const [i, tag] of tags.entries()) {
      if (replies[i] === 1) this.#latest.set(tag, { version: versions[tag] ?? '', keptUntil })
      else this.#latest.delete(tag)
    }
    return replies.every(reply => reply === 1)
  }

  /** Whether this process knows that Redis keeps versions as long as an entry that uses them. */
  areRetained (versions: Readonly<Record<string, string>>, patternVersion: string, ttl: Milliseconds): boolean {
    const until = this.#clock.monotonic() + ttl
    return this.#isRetained(PATTERN_TAG, patternVersion, until) && this.#unretained(versions, until) === undefined
  }

  /**
   * Returns whether versions are still current. They are read before the commands that are sent next on the same
   * connection.
   */
  async areCurrent (versions: Readonly<Record<string, string>>): Promise<boolean> {
    const tags = Object.keys(versions)
    const current = await Promise.all(tags.map(tag => {
      const key = this.keyOf(tag)
      return onNode(this.#client, key, () => this.#client.send<string | null>('get', [key]))
    }))
    for (const [i, tag] of tags.entries()) this.#remember(tag, current[i] ?? undefined)
    return tags.every((tag, i) => current[i] === versions[tag])
  }

  /** Gives each tag a new version. @param channel - empty: nothing is published */
  async invalidate (
    tags: readonly string[], channel: string, messageOf: (tags: readonly string[]) => string
  ): Promise<void> {
    const random = randomText(12)
    const argsOf = (some: readonly string[]) => [random, UNUSED_TTL_MS, channel, channel === '' ? '' : messageOf(some)]
    await this.#run(invalidateScript, tags, argsOf)
  }

  #remember (tag: string, version: string | undefined): void {
    if (version === undefined || version === '') this.#latest.delete(tag)
    else if (this.#latest.get(tag)?.version !== version) this.#latest.set(tag, { version, keptUntil: 0 })
  }

  #unretained (versions: Readonly<Record<string, string>>, until: number): string[] | undefined {
    let unretained: string[] | undefined
    for (const tag in versions) {
      if (!this.#isRetained(tag, versions[tag], until)) (unretained ??= []).push(tag)
    }
    return unretained
  }

  #isRetained (tag: string, version: string | undefined, until: number): boolean {
    const known = this.#latest.get(tag)
    return known !== undefined && known.version === version && known.keptUntil >= until
  }

  /**
   * Runs a script that replies once for each tag: for all tags at once, or one by one in a Cluster, where their keys
   * lie on several nodes.
   */
  async #run (
    script: Script, tags: readonly string[], argsOf: (tags: readonly string[]) => Array<string | number>
  ): Promise<unknown[]> {
    const run = (some: readonly string[]) =>
      sendScript(this.#client, script, this.keysOf(some), argsOf(some), this.#clock)
    if (!this.#isApart) {
      try {
        return repliesOf(await run(tags))
      } catch (error) {
        if (!isBatchRefusal(error)) throw error
        this.#isApart = true
      }
    }
    return (await Promise.all(tags.map(tag => run([tag])))).flatMap(repliesOf)
  }
}

function repliesOf (reply: unknown): unknown[] {
  return Array.isArray(reply) ? reply : []
}
