import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Timer } from '../shared/clock.js'
import type { Entry } from './entry.js'
import { EVERYTHING } from './store.js'

// While the circuit is open a try costs nothing; once it is closed the other instances are waiting for it, see SETTLE_MS.
const RETRY_MS = 50
/** For how long after an outage an instance takes nothing out of the store: until all of them are back and have written what they owed. */
export const SETTLE_MS = 1000
const MOST = 10_000
// Under one deadline.
const BATCH = 500

export interface Debt {
  tags: readonly string[]
  ids: readonly string[]
}

/**
 * Invalidations that could not be written, as the store was not to be reached: they are tried again until they are, and
 * until then this process takes what they name as gone.
 */
export class Owed {
  readonly #pay: (debt: Debt) => Promise<unknown>
  readonly #log: FastifyBaseLogger
  readonly #clock: Clock
  // With a number of its own each, as the same may be owed again while it is being paid.
  readonly #tags = new Map<string, number>()
  readonly #ids = new Map<string, number>()
  #count = 0
  #timer: Timer | undefined

  constructor (pay: (debt: Debt) => Promise<unknown>, log: FastifyBaseLogger, clock: Clock) {
    this.#pay = pay
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

  add ({ tags, ids }: Debt): void {
    if (this.isEmpty) this.#log.warn({ plugin: 'cache' }, 'cache: invalidations could not be written: they are tried again until they are')
    for (const tag of tags) this.#tags.set(tag, ++this.#count)
    for (const id of ids) this.#ids.set(id, ++this.#count)
    // More than is worth remembering one by one.
    if (this.#tags.size + this.#ids.size > MOST) {
      this.#ids.clear()
      this.#tags.clear()
      this.#tags.set(EVERYTHING, ++this.#count)
    }
    this.#timer ??= this.#clock.setTimeout(() => { this.#retry().catch(() => {}) }, RETRY_MS).unref()
  }

  /** Whether an entry is to be taken as gone. */
  covers (id: string, entry: Entry | undefined): boolean {
    if (this.#ids.has(id) || this.#tags.has(EVERYTHING)) return true
    return entry !== undefined && Object.keys(entry.tags).some(tag => this.#tags.has(tag))
  }

  /** Tries once more, for the last time. */
  async close (): Promise<void> {
    this.#clock.clearTimeout(this.#timer)
    if (!this.isEmpty && !await this.#payAll()) {
      this.#log.error({ plugin: 'cache', invalidations: this.#tags.size + this.#ids.size }, 'cache: closed with invalidations that could not be written: what they name may be served until its ttl ends')
    }
  }

  async #retry (): Promise<void> {
    const isPaid = await this.#payAll()
    this.#timer = undefined
    if (!this.isEmpty) this.#timer = this.#clock.setTimeout(() => { this.#retry().catch(() => {}) }, RETRY_MS).unref()
    else if (isPaid) this.#log.info({ plugin: 'cache' }, 'cache: all invalidations are written')
  }

  async #payAll (): Promise<boolean> {
    const tags = [...this.#tags]
    const ids = [...this.#ids]
    try {
      for (let at = 0; at < Math.max(tags.length, ids.length); at += BATCH) {
        const batch = { tags: tags.slice(at, at + BATCH), ids: ids.slice(at, at + BATCH) }
        await this.#pay({ tags: batch.tags.map(([tag]) => tag), ids: batch.ids.map(([id]) => id) })
        for (const [tag, number] of batch.tags) if (this.#tags.get(tag) === number) this.#tags.delete(tag)
        for (const [id, number] of batch.ids) if (this.#ids.get(id) === number) this.#ids.delete(id)
      }
      return true
    } catch {
      return false
    }
  }
}
