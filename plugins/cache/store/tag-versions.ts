import { LRUCache } from 'lru-cache'
import { isCluster, type RedisClient } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { onNode } from '../../shared/redis/cluster-nodes.js'
import { keySpace, safeId } from '../../shared/plugin/keys.js'
import { runScript, type Script } from '../../shared/redis/script.js'
import { isBatchRefusal } from '../../shared/redis/micro-batch.js'
import { randomText } from './entry-codec.js'
import { createVersionsScript, invalidateScript, acquireFillScript } from './scripts.js'
import { ALL_TAG, PATTERN_TAG, TOMBSTONE_MS } from './store.js'

/**
 * How long a version lives that no stored entry uses. What began before a tag was invalidated is not stored after `TOMBSTONE_MS`, so
 * that a version may be forgotten after this: entries that were made with an earlier one stay invalid, as none is equal to no version.
 */
const UNUSED_TTL_MS = 1.5 * TOMBSTONE_MS
/** A path tag whose key needs no digest, which would cost each hit a microsecond. */
const PLAIN_PATH = /^\0\/[\w.@:/-]{0,100}$/
const MOST_REMEMBERED = 10_000

interface Known {
  version: string
  /** Until when it lives at least, by the monotonic clock of this process. */
  until: number
}

/** Writes the message that tells other instances of invalidated tags. */
type MessageOf = (tags: readonly string[]) => string

/**
 * The versions of tags: each is a key in Redis, and an entry remembers the versions of its tags. A version that is gone (expired, evicted,
 * flushed) is equal to none, so that losing one costs misses and never a stale response.
 */
export class TagVersions {
  readonly #client: RedisClient
  readonly #clock: Clock
  readonly #space: string
  readonly #pathSpace: string
  readonly #everythingKey: string
  readonly #patternsKey: string
  /** The versions that tags had when they were read last: most have them still. */
  readonly #latest = new LRUCache<string, Known>({ max: MOST_REMEMBERED })
  /** Whether several keys cannot be passed to one script. */
  #isApart: boolean

  constructor (client: RedisClient, prefix: string, clock: Clock) {
    this.#client = client
    this.#clock = clock
    this.#space = keySpace(prefix, 'cache', 'tag')
    this.#pathSpace = keySpace(prefix, 'cache', 'path')
    this.#everythingKey = this.#space + safeId(ALL_TAG)
    this.#patternsKey = this.#space + safeId(PATTERN_TAG)
    this.#isApart = isCluster(client)
  }

  keyOf (tag: string): string {
    if (tag === ALL_TAG) return this.#everythingKey
    if (tag === PATTERN_TAG) return this.#patternsKey
    return PLAIN_PATH.test(tag) ? this.#pathSpace + tag.slice(2) : this.#space + safeId(tag)
  }

  /** Remembers versions that were read. A hit need not call it: an outdated version costs a further round trip, and never a stale response. */
  rememberAll (versions: Readonly<Record<string, string | undefined>>): void {
    for (const tag in versions) this.#remember(tag, versions[tag])
  }

  /** Returns the versions that the tags had when they were read last; undefined where one is not known. */
  guess (tags: readonly string[]): Record<string, string> | undefined {
    const known = tags.map(tag => [tag, this.#latest.get(tag)?.version ?? ''] as const)
    return known.every(([, version]) => version !== '') ? Object.fromEntries(known) : undefined
  }

  /** Reads the versions of tags, and gives one to each tag that has none. */
  async create (tags: readonly string[]): Promise<Record<string, string>> {
    if (tags.length === 0) return {}
    const made = `0-${randomText(12)}`
    const until = this.#clock.monotonic() + UNUSED_TTL_MS
    const versions = (await this.#run(createVersionsScript, tags, () => [made, UNUSED_TTL_MS])).map(String)
    for (const [i, tag] of tags.entries()) {
      if (versions[i] === made) this.#latest.set(tag, { version: made, until })
      else this.#remember(tag, versions[i])
    }
    return Object.fromEntries(tags.map((tag, i) => [tag, versions[i] ?? '']))
  }

  /**
   * Has versions live as long as an entry that uses them. It costs nothing where this process knows that they do.
   *
   * @param life - milliseconds
   * @returns whether all of them are the tags' versions still, as far as they were asked for
   */
  async retain (versions: Readonly<Record<string, string>>, life: number): Promise<boolean> {
    const now = this.#clock.monotonic()
    const tags = Object.keys(versions).filter(tag => !this.#isRetained(tag, versions[tag], now + life))
    if (tags.length === 0) return true
    // Longer than is needed now, so that the next entries need not ask.
    const replies = await this.#run(acquireFillScript, tags, some => [Math.ceil(life + UNUSED_TTL_MS), ...some.map(tag => versions[tag] ?? '')])
    const until = now + life + UNUSED_TTL_MS
    for (const [i, tag] of tags.entries()) {
      if (replies[i] === 1) this.#latest.set(tag, { version: versions[tag] ?? '', until })
      else this.#latest.delete(tag)
    }
    return replies.every(reply => reply === 1)
  }

  /** Whether all of these are the tags' versions still; they are read before what is asked for next on the same connection. */
  async areCurrent (versions: Readonly<Record<string, string>>): Promise<boolean> {
    const tags = Object.keys(versions)
    const now = await Promise.all(tags.map(tag => onNode(this.#client, this.keyOf(tag), () => this.#client.get(this.keyOf(tag)))))
    for (const [i, tag] of tags.entries()) this.#remember(tag, now[i] ?? undefined)
    return tags.every((tag, i) => now[i] === versions[tag])
  }

  /** Gives each tag a new version. @param messageOf - undefined where no other instance is told */
  async invalidate (tags: readonly string[], channel: string, messageOf: MessageOf): Promise<void> {
    const random = randomText(12)
    await this.#run(invalidateScript, tags, some => [random, UNUSED_TTL_MS, channel, channel === '' ? '' : messageOf(some)])
  }

  #remember (tag: string, version: string | undefined): void {
    if (version === undefined) this.#latest.delete(tag)
    else if (this.#latest.get(tag)?.version !== version) this.#latest.set(tag, { version, until: 0 })
  }

  #isRetained (tag: string, version: string | undefined, until: number): boolean {
    const known = this.#latest.get(tag)
    return known !== undefined && known.version === version && known.until >= until
  }

  /** Runs a script that replies once for each tag: for all of them at once, or in a Cluster, whose nodes hold some each, one by one. */
  async #run (script: Script, tags: readonly string[], argsOf: (tags: readonly string[]) => Array<string | number>): Promise<unknown[]> {
    const run = (some: readonly string[]) => runScript(this.#client, script, some.map(tag => this.keyOf(tag)), argsOf(some), this.#clock)
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
