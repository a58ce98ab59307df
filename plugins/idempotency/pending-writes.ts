import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { RetryQueue, type RetryItem } from '../shared/plugin/retry-queue.js'
import type { Bytes, Milliseconds } from '../shared/plugin/units.js'
import type { RedisGuard } from '../shared/redis/guard.js'
import type { IdempotencyStore, KeyedRequest, RecordedResponse } from './store.js'
import { copyResponse } from './stored-response.js'

/** How long a write is retried. */
const MAX_PENDING_MS = 60 * 1000
/** Short, as other instances may acquire a key whose lease has expired once the store is available again. */
const RETRY_MS = 100
const MAX_BYTES = 64 * 1024 * 1024

export const KEY_TAKEN = 'idempotency: a response was not stored, as another request acquired its key meanwhile'

/** A response that is not stored yet. It has memory of its own, and refers to neither request nor reply. */
export interface PendingWrite extends RetryItem {
  readonly request: KeyedRequest
  readonly response: RecordedResponse
  readonly ttl: Milliseconds
  readonly bytes: Bytes
}

interface PendingWritesOptions {
  store: Pick<IdempotencyStore, 'complete'>
  run: RedisGuard['run']
  log: FastifyBaseLogger
  clock: Clock
}

/** Responses that the store did not take: bounded to 64 MiB, and stored as soon as the store is available again. */
export class PendingWrites {
  readonly #options: PendingWritesOptions
  readonly #queue: RetryQueue<PendingWrite>
  readonly #byId = new Map<string, PendingWrite>()
  #bytes = 0
  #isFull = false

  constructor (options: PendingWritesOptions) {
    this.#options = options
    this.#queue = new RetryQueue({
      clock: options.clock,
      retryDelay: RETRY_MS,
      write: write => this.#store(write),
      onRemove: write => this.#forget(write)
    })
  }

  get bytes (): Bytes { return this.#bytes }
  get size (): number { return this.#queue.size }

  /** Returns the pending response of a key, whose lease in the store may have expired. */
  find (id: string): PendingWrite | undefined {
    return this.#byId.get(id)
  }

  /** Queues a response; the first one of an outage is logged. @returns undefined if the queue is full */
  queue (
    request: KeyedRequest, response: RecordedResponse, ttl: Milliseconds, reason: string
  ): PendingWrite | undefined {
    const { log, clock } = this.#options
    const write = {
      request, ...copyResponse(response), ttl, deadline: clock.monotonic() + Math.min(MAX_PENDING_MS, ttl)
    }
    if (this.#bytes + write.bytes > MAX_BYTES) {
      if (!this.#isFull) {
        log.warn(
          { plugin: 'idempotency', reason },
          'idempotency: the queue of unstored responses is full: further ones are not stored'
        )
      }
      this.#isFull = true
      return undefined
    }
    if (this.size === 0) {
      log.warn({ plugin: 'idempotency', reason }, 'idempotency: a response could not be stored and is queued')
    }
    this.#bytes += write.bytes
    if (!this.#byId.has(request.id)) this.#byId.set(request.id, write)
    this.#queue.add(write)
    return write
  }

  /** Cancels a write. */
  cancel (write: PendingWrite): void {
    this.#queue.remove(write)
  }

  /** Makes a last attempt to store all responses. */
  async close (): Promise<void> {
    const lost = await this.#queue.close()
    if (lost > 0) {
      this.#options.log.error(
        { plugin: 'idempotency', responses: lost },
        'idempotency: closed with responses that could not be stored: the same requests may run a second time'
      )
    }
  }

  async #store ({ request, response, ttl }: PendingWrite): Promise<void> {
    const { store, run, log } = this.#options
    if (!await run(() => store.complete(request, response, ttl))) log.warn({ plugin: 'idempotency' }, KEY_TAKEN)
  }

  #forget (write: PendingWrite): void {
    const { id } = write.request
    if (this.#byId.get(id) === write) this.#byId.delete(id)
    this.#bytes -= write.bytes
    if (this.size === 0) this.#isFull = false
  }
}
