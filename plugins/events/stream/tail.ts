import { compareIds } from '../../shared/work-queue/stream-ids.js'
import type { StoredMessage } from '../../shared/work-queue/queue.js'
import { indexAfter } from './store.js'

type Range = (after: string, count: number) => Promise<StoredMessage[]>

const PAGE = 100
const MOST_EVENTS = 1000
const MOST_BYTES = 1024 * 1024

/** The newest events of a partition, asked for once for all readers. Who is further behind asks the store. */
export class Tail {
  readonly #range: Range
  #events: StoredMessage[] = []
  #bytes = 0
  /** What came before the first one that is kept, and the last one. */
  #from: string
  #last: string
  #isStale = true
  #refreshing: Promise<void> | undefined
  /** How many the store is asked for at a time: fewer where it fails, as they may be too large to come in time. */
  #page = PAGE

  constructor (range: Range, last: string) {
    this.#range = range
    this.#from = this.#last = last
  }

  /** There may be more. */
  touch (): void {
    this.#isStale = true
  }

  /** Some of the events after an id, from the first one on; none: there are no more. */
  async after (id: string): Promise<StoredMessage[]> {
    if (compareIds(id, this.#from) < 0) return (await this.#ask(id)).events
    const found = this.#found(id)
    if (found.length > 0) return found
    while (this.#isStale || this.#refreshing !== undefined) await (this.#refreshing ??= this.#refresh().finally(() => { this.#refreshing = undefined }))
    // What was found may be more than is kept.
    return compareIds(id, this.#from) < 0 ? (await this.#ask(id)).events : this.#found(id)
  }

  #found (id: string): StoredMessage[] {
    const start = indexAfter(this.#events, id)
    return this.#events.slice(start, start + PAGE)
  }

  async #refresh (): Promise<void> {
    this.#isStale = false
    try {
      const { events, isAll } = await this.#ask(this.#last)
      if (!isAll) this.#isStale = true
      for (const event of events) this.#keep(event)
    } catch (error) {
      this.#isStale = true
      throw error
    }
  }

  async #ask (after: string): Promise<{ events: StoredMessage[], isAll: boolean }> {
    const count = this.#page
    try {
      const events = await this.#range(after, count)
      this.#page = Math.min(PAGE, count * 2)
      return { events, isAll: events.length < count }
    } catch (error) {
      this.#page = Math.max(1, Math.floor(count / 2))
      throw error
    }
  }

  #keep (event: StoredMessage): void {
    this.#events.push(event)
    this.#bytes += event.value.length
    this.#last = event.id
    while (this.#events.length > MOST_EVENTS || this.#bytes > MOST_BYTES) {
      const oldest = this.#events.shift()
      if (oldest === undefined) return
      this.#bytes -= oldest.value.length
      this.#from = oldest.id
    }
  }
}
