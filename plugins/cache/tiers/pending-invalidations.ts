import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { Entry } from '../store/entry.js'
import { ALL_TAG } from '../store/store.js'

// While the circuit is open a try costs nothing; once it is closed the other instances are waiting for it, see SETTLE_MS.
const RETRY_MS = 50
/** For how long after an outage an instance takes nothing out of the store: until all of them are back and have written what they owed. */
export const RECOVERY_GRACE_MS = 1000
const MOST = 10_000
// Under one deadline.
const BATCH = 500

export interface InvalidationBatch {
  tags: readonly string[]
  ids: readonly string[]
}

/** Writes what is owed, and calls `onPaid` with each part of it that is written. */
type Flush = (debt: InvalidationBatch, onPaid: (part: InvalidationBatch) => void) => Promise<unknown>

/**
 * Invalidations that could not be written, as the store was not to be reached: they are tried again until they are, and
 * until then this process takes what they name as gone.
 */
export class PendingInvalidations {
  readonly #flush: Flush
  readonly #log: FastifyBaseLogger
  readonly #clock: Clock
  // With a number of its own each, as the same may be owed again while it is being paid.
  readonly #tags = new Map<string, number>()
  readonly #ids = new Map<string, number>()
  #count = 0
  #timer: Timer | undefined

  constructor (pay: Flush, log: FastifyBaseLogger, clock: Clock) {
    this.#flush = pay
    this.#log = log
    this.#clock = clock
  }

  /** How often something was owed. */
  get count (): number {
    return this.#count
  }

  get isEmpty (): boolean {
    return this.#tags.size + this.#ids.size === 0
  }

  add ({ tags, ids }: InvalidationBatch): void {
    if (this.isEmpty) this.#log.warn({ plugin: 'cache' }, 'cache: invalidations could not be written: they are tried again until they are')
    for (const tag of tags) this.#tags.set(tag, ++this.#count)
    for (const id of ids) this.#ids.set(id, ++this.#count)
    // More than is worth remembering one by one.
    if (this.#tags.size + this.#ids.size > MOST) {
      this.#ids.clear()
      this.#tags.clear()
      this.#tags.set(ALL_TAG, ++this.#count)
    }
    this.#timer ??= this.#clock.setTimeout(() => { this.#retry().catch(() => {}) }, RETRY_MS).unref()
  }

  /** Whether an entry is to be taken as gone. */
  isInvalidated (id: string, entry: Entry | undefined): boolean {
    if (this.#ids.has(id) || this.#tags.has(ALL_TAG)) return true
    return entry !== undefined && Object.keys(entry.tags).some(tag => this.#tags.has(tag))
  }

  /** Tries once more, for the last time. */
  async close (): Promise<void> {
    this.#clock.clearTimeout(this.#timer)
    if (!this.isEmpty && !await this.#flushAll()) {
      this.#log.error({ plugin: 'cache', invalidations: this.#tags.size + this.#ids.size }, 'cache: closed with invalidations that could not be written: what they name may be served until its ttl ends')
    }
  }

  async #retry (): Promise<void> {
    const isPaid = await this.#flushAll()
    this.#timer = undefined
    if (!this.isEmpty) this.#timer = this.#clock.setTimeout(() => { this.#retry().catch(() => {}) }, RETRY_MS).unref()
    else if (isPaid) this.#log.info({ plugin: 'cache' }, 'cache: all invalidations are written')
  }

  async #flushAll (): Promise<boolean> {
    const tags = [...this.#tags]
    const ids = [...this.#ids]
    for (let at = 0; at < Math.max(tags.length, ids.length); at += BATCH) {
      if (!await this.#flushBatch(new Map(tags.slice(at, at + BATCH)), new Map(ids.slice(at, at + BATCH)))) return false
    }
    return true
  }

  async #flushBatch (tags: ReadonlyMap<string, number>, ids: ReadonlyMap<string, number>): Promise<boolean> {
    const onPaid = (paid: InvalidationBatch): void => {
      for (const tag of paid.tags) if (this.#tags.get(tag) === tags.get(tag)) this.#tags.delete(tag)
      for (const id of paid.ids) if (this.#ids.get(id) === ids.get(id)) this.#ids.delete(id)
    }
    try {
      await this.#flush({ tags: [...tags.keys()], ids: [...ids.keys()] }, onPaid)
      return true
    } catch {
      // One master of a Cluster may be away: what is owed to the others is not to wait for it.
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
