import { sleep, type Clock } from '../plugin/clock.js'
import { toError } from '../plugin/errors.js'
import type { Milliseconds } from '../plugin/units.js'
import { LeaseLostError, type Lease } from './lease.js'
import type { MessageRef, PartitionQueue } from './queue.js'

/** The pause after the store failed. */
export const STORE_RETRY_MS: Milliseconds = 200
/**
 * How long a partition that is released still retries acknowledgements on a store that fails. Messages that stay
 * unacknowledged are delivered once more by the next owner, and a closing app does not wait for the lease to expire.
 */
const RELEASE_MS: Milliseconds = 500
const MAX_ACKS = 1000

export interface AckBatcher {
  /** Resolves when the messages are acknowledged. @throws {@link LeaseLostError} */
  add (messages: readonly MessageRef[]): Promise<void>
  /** Ends retries soon, as the partition is being released. */
  stop (): void
}

/** Acknowledges messages that finish together in one call, and retries until the store replies or the lease is lost. */
export function createAckBatcher (
  queue: PartitionQueue, lease: Lease, onStore: (error: Error | undefined) => void, clock: Clock
): AckBatcher {
  let waiting: Array<{ messages: readonly MessageRef[], resolve: () => void, reject: (error: Error) => void }> = []
  let isFlushing = false
  let retryUntil = Infinity

  async function flush (): Promise<void> {
    isFlushing = true
    while (waiting.length > 0) {
      const acks = waiting.splice(0, MAX_ACKS)
      try {
        if (!await queue.ack(lease.token, acks.flatMap(({ messages }) => messages))) throw new LeaseLostError()
        onStore(undefined)
        for (const { resolve } of acks) resolve()
      } catch (error) {
        if (error instanceof LeaseLostError || lease.signal.aborted || clock.monotonic() >= retryUntil) {
          for (const { reject } of acks) reject(new LeaseLostError())
          continue
        }
        onStore(toError(error))
        waiting = [...acks, ...waiting]
        await sleep(clock, STORE_RETRY_MS, { ref: false })
      }
    }
    isFlushing = false
  }

  return {
    add: messages => new Promise((resolve, reject) => {
      waiting.push({ messages, resolve, reject })
      if (!isFlushing) flush().catch(() => {})
    }),
    stop () { retryUntil = Math.min(retryUntil, clock.monotonic() + RELEASE_MS) }
  }
}
