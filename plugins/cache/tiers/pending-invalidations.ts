import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { Entry } from '../store/entry.js'
import { ALL_TAG } from '../store/store.js'

// An attempt costs nothing while the circuit is open. Once it is closed, other instances wait for the invalidations.
const RETRY_MS = 50
/**
 * How long after an outage an instance uses nothing from the store, so that all instances can write their pending
 * invalidations.
 */
export const RECOVERY_GRACE_MS = 1000
const MAX_PENDING = 10_000
/** The number of tags, and of ids, that are written under one deadline. */
const BATCH_SIZE = 500

export interface InvalidationBatch {
  tags: readonly string[]
  ids: readonly string[]
}

/** Writes a batch, and calls `onWritten` with each part that is written. */
type WriteBatch = (batch: InvalidationBatch, onWritten: (part: InvalidationBatch) => void) => Promise<unknown>

/**
 * Invalidations that could not be written, as the store was unavailable. They are repeated until they succeed; until
 * then this process does not use what they invalidate.
 */
export class PendingInvalidations {
  readonly #writeBatch: WriteBatch
  readonly #log: FastifyBaseLogger
  readonly #clock: Clock
  // With a sequence number each, as the same tag or id may become pending again while it is being written.
  readonly #tags = new Map<string, number>()
  readonly #ids = new Map<string, number>()
  /** Whether nothing is pending. A field, as each hit reads it. */
  isEmpty = true
  #count = 0
  #timer: Timer | undefined

  constructor (writeBatch: WriteBatch, log: FastifyBaseLogger, clock: Clock) {
    this.#writeBatch = writeBatch
    this.#log = log
    this.#clock = clock
  }

  /** The number of invalidations that have been pending so far. */
  get count (): number {
    return this.#count
  }

  add ({ tags, ids }: InvalidationBatch): void {
    if (this.isEmpty) {
      this.#log.warn({ plugin: 'cache' }, 'cache: invalidations failed and are repeated until they succeed')
    }
    for (const tag of tags) this.#tags.set(tag, ++this.#count)
    for (const id of ids) this.#ids.set(id, ++this.#count)
    this.isEmpty = this.#size === 0
    // Beyond the limit everything is invalidated.
    if (this.#size > MAX_PENDING) {
      this.#ids.clear()
      this.#tags.clear()
      this.#tags.set(ALL_TAG, ++this.#count)
    }
    this.#schedule()
  }

  /** Whether an entry must not be used. */
  isInvalidated (id: string, entry: Entry | undefined): boolean {
    if (this.#ids.has(id) || this.#tags.has(ALL_TAG)) return true
    return entry !== undefined && Object.keys(entry.tags).some(tag => this.#tags.has(tag))
  }

  /** Makes the last attempt. */
  async close (): Promise<void> {
    this.#clock.clearTimeout(this.#timer)
    if (!this.isEmpty && !await this.#flush()) {
      const about = { plugin: 'cache', invalidations: this.#size }
      this.#log.error(
        about,
        'cache: closed with invalidations that were not written: outdated entries may be served until they expire'
      )
    }
  }

  get #size (): number {
    return this.#tags.size + this.#ids.size
  }

  #schedule (): void {
    this.#timer ??= this.#clock.setTimeout(() => { this.#retry().catch(() => {}) }, RETRY_MS).unref()
  }

  async #retry (): Promise<void> {
    const isFlushed = await this.#flush()
    this.#timer = undefined
    if (!this.isEmpty) this.#schedule()
    else if (isFlushed) this.#log.info({ plugin: 'cache' }, 'cache: all invalidations are written')
  }

  /** @returns whether all that was pending at the call is written */
  async #flush (): Promise<boolean> {
    const tags = [...this.#tags]
    const ids = [...this.#ids]
    for (let at = 0; at < Math.max(tags.length, ids.length); at += BATCH_SIZE) {
      const end = at + BATCH_SIZE
      if (!await this.#flushBatch(new Map(tags.slice(at, end)), new Map(ids.slice(at, end)))) return false
    }
    return true
  }

  async #flushBatch (tags: ReadonlyMap<string, number>, ids: ReadonlyMap<string, number>): Promise<boolean> {
    const onWritten = (written: InvalidationBatch): void => {
      for (const tag of written.tags) if (this.#tags.get(tag) === tags.get(tag)) this.#tags.delete(tag)
      for (const id of written.ids) if (this.#ids.get(id) === ids.get(id)) this.#ids.delete(id)
      this.isEmpty = this.#size === 0
    }
    try {
      await this.#writeBatch({ tags: [...tags.keys()], ids: [...ids.keys()] }, onWritten)
      return true
    } catch {
      // The node of these keys may be unavailable: invalidations for other nodes of a Cluster must not wait for it.
      moveToEnd(this.#tags, tags)
      moveToEnd(this.#ids, ids)
      return false
    }
  }
}

function moveToEnd (all: Map<string, number>, some: ReadonlyMap<string, number>): void {
  for (const [name, number] of some) {
    if (all.get(name) !== number) continue
    all.delete(name)
    all.set(name, number)
  }
}
