import { sleep, type Clock } from '../../shared/plugin/clock.js'
import { toError } from '../../shared/plugin/errors.js'
import type { Lease } from '../../shared/work-queue/lease.js'
import { RELEASE_MS } from '../../shared/work-queue/partition-assignment.js'
import type { Holder, Source, StreamStore, TakenEvent } from './store.js'

interface Ack {
  event: TakenEvent
  resolve: () => void
  reject: (error: Error) => void
}

export class LeaseLost extends Error {}

const REST_MS = 200
const MOST = 1000

/** Acknowledges events together that are done at the same time, until the store has heard it or the lease is lost. */
export class AckBatcher {
  readonly #store: StreamStore
  readonly #holder: Holder
  readonly #lease: Lease
  readonly #onStore: (error: Error | undefined) => void
  readonly #clock: Clock
  #waiting: Ack[] = []
  #isFlushing = false
  /** By the clock's `monotonic()`. */
  #until = Infinity

  constructor (store: StreamStore, holder: Holder, lease: Lease, onStore: (error: Error | undefined) => void, clock: Clock) {
    this.#store = store
    this.#holder = holder
    this.#lease = lease
    this.#onStore = onStore
    this.#clock = clock
  }

  /** @throws {@link LeaseLost} */
  async add (event: TakenEvent): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#waiting.push({ event, resolve, reject })
      if (!this.#isFlushing) this.#flush().catch(() => {})
    })
  }

  /** The partition is released: a store that fails is asked for `RELEASE_MS` more. */
  stop (): void {
    this.#until = Math.min(this.#until, this.#clock.monotonic() + RELEASE_MS)
  }

  async #flush (): Promise<void> {
    this.#isFlushing = true
    while (this.#waiting.length > 0) {
      const acks = this.#waiting.splice(0, MOST)
      try {
        for (const source of ['log', 'again'] as const) await this.#done(source, acks)
        this.#onStore(undefined)
        for (const { resolve } of acks) resolve()
      } catch (error) {
        if (error instanceof LeaseLost || this.#lease.signal.aborted || this.#clock.monotonic() >= this.#until) {
          for (const { reject } of acks) reject(new LeaseLost())
          continue
        }
        this.#onStore(toError(error))
        this.#waiting.unshift(...acks)
        await sleep(this.#clock, REST_MS, { ref: false })
      }
    }
    this.#isFlushing = false
  }

  async #done (source: Source, acks: readonly Ack[]): Promise<void> {
    const entries = acks.filter(({ event }) => event.source === source).map(({ event }) => event.entry)
    if (entries.length > 0 && !await this.#store.ack(this.#holder, source, entries)) throw new LeaseLost()
  }
}
