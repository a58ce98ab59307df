import type { Bytes } from '../../shared/plugin/units.js'
import type { StoredMessage } from '../../shared/work-queue/queue.js'
import { compareIds } from '../../shared/work-queue/stream-ids.js'
import { indexAfter } from './store.js'

type Range = (after: string, count: number) => Promise<StoredMessage[]>

const PAGE_SIZE = 100
const MAX_EVENTS = 1000
const MAX_BYTES: Bytes = 1024 * 1024

/** The newest events of a partition, read once for all readers. A reader that is further behind reads the store. */
export class Tail {
  readonly #range: Range
  #events: StoredMessage[] = []
  #bytes: Bytes = 0
  /** The id before the first event that is held, and the id of the last one. */
  #from: string
  #last: string
  #isStale = true
  #refreshing: Promise<void> | undefined
  /** Halved when the store fails, as a page may be too large to arrive in time. */
  #pageSize = PAGE_SIZE

  constructor (range: Range, last: string) {
    this.#range = range
    this.#from = this.#last = last
  }

  /** Has the next call read new events. */
  touch (): void {
    this.#isStale = true
  }

  /** Returns the next events after an id; none where there are no more. */
  async after (id: string): Promise<StoredMessage[]> {
    if (compareIds(id, this.#from) < 0) return (await this.#read(id)).events
    const found = this.#find(id)
    if (found.length > 0) return found
    while (this.#isStale || this.#refreshing !== undefined) {
      await (this.#refreshing ??= this.#refresh().finally(() => { this.#refreshing = undefined }))
    }
    // A refresh may read more events than are held.
    return compareIds(id, this.#from) < 0 ? (await this.#read(id)).events : this.#find(id)
  }

  #find (id: string): StoredMessage[] {
    const start = indexAfter(this.#events, id)
    return this.#events.slice(start, start + PAGE_SIZE)
  }

  async #refresh (): Promise<void> {
    this.#isStale = false
    try {
      const { events, isAll } = await this.#read(this.#last)
      if (!isAll) this.#isStale = true
      for (const event of events) this.#add(event)
    } catch (error) {
      this.#isStale = true
      throw error
    }
  }

  async #read (after: string): Promise<{ events: StoredMessage[], isAll: boolean }> {
    const count = this.#pageSize
    try {
      const events = await this.#range(after, count)
      this.#pageSize = Math.min(PAGE_SIZE, count * 2)
      return { events, isAll: events.length < count }
    } catch (error) {
      this.#pageSize = Math.max(1, Math.floor(count / 2))
      throw error
    }
  }

  #add (event: StoredMessage): void {
    this.#events.push(event)
    this.#bytes += event.value.length
    this.#last = event.id
    while (this.#events.length > MAX_EVENTS || this.#bytes > MAX_BYTES) {
      const oldest = this.#events.shift()
      if (oldest === undefined) return
      this.#bytes -= oldest.value.length
      this.#from = oldest.id
    }
  }
}
