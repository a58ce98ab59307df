import { sleep, type Clock } from '../plugin/clock.js'
import { toError } from '../plugin/errors.js'
import { LeaseLostError, type Lease } from './lease.js'
import type { MessageRef, PartitionQueue } from './queue.js'

interface Ack {
  messages: readonly MessageRef[]
  resolve: () => void
  reject: (error: Error) => void
}

/** The pause after the store failed. */
export const STORE_RETRY_MS = 200
/**
 * How long a partition that is released still retries acknowledgements on a store that fails. Messages that stay unacknowledged are delivered
 * once more by the next owner, and a closing app does not wait for the lease to expire.
 */
const RELEASE_MS = 500
const MAX_ACKS = 1000

/** Acknowledges messages that finish at the same time in one call, and retries until the store has replied or the lease is lost. */
export class AckBatcher {
  readonly #queue: PartitionQueue
  readonly #lease: Lease
  readonly #onStore: (error: Error | undefined) => void
  readonly #clock: Clock
  #waiting: Ack[] = []
  #isFlushing = false
  /** The end of retries, by the clock's `monotonic()`. */
  #retryUntil = Infinity

  constructor (queue: PartitionQueue, lease: Lease, onStore: (error: Error | undefined) => void, clock: Clock) {
    this.#queue = queue
    this.#lease = lease
    this.#onStore = onStore
    this.#clock = clock
  }

  /** @throws {@link LeaseLostError} */
  async add (messages: readonly MessageRef[]): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#waiting.push({ messages, resolve, reject })
      if (!this.#isFlushing) this.#flush().catch(() => {})
    })
  }

  /** Ends retries soon, as the partition is being released. */
  stop (): void {
    this.#retryUntil = Math.min(this.#retryUntil, this.#clock.monotonic() + RELEASE_MS)
  }

  async #flush (): Promise<void> {
    this.#isFlushing = true
    while (this.#waiting.length > 0) {
      const acks = this.#waiting.splice(0, MAX_ACKS)
      try {
        if (!await this.#queue.ack(this.#lease.token, acks.flatMap(({ messages }) => messages))) throw new LeaseLostError()
        this.#onStore(undefined)
        for (const { resolve } of acks) resolve()
      } catch (error) {
        if (error instanceof LeaseLostError || this.#lease.signal.aborted || this.#clock.monotonic() >= this.#retryUntil) {
          for (const { reject } of acks) reject(new LeaseLostError())
          continue
        }
        this.#onStore(toError(error))
        this.#waiting.unshift(...acks)
        await sleep(this.#clock, STORE_RETRY_MS, { ref: false })
      }
    }
    this.#isFlushing = false
  }
}
