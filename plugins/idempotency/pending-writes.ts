import { AsyncResource } from 'node:async_hooks'
import type { FastifyBaseLogger } from 'fastify'
import { batchesOf } from '../shared/plugin/batches.js'
import type { Clock, Timer } from '../shared/plugin/clock.js'
import type { RedisGuard } from '../shared/redis/guard.js'
import { ownResponse } from './own-response.js'
import type { Claimant, IdempotencyStore, RecordedResponse } from './store.js'

/** How long it is tried to store a response that the store did not take. */
const MAX_PENDING_MS = 60 * 1000
/** While the circuit is open a try costs nothing. As soon as the store is back, other instances could take the key of a claim that has expired. */
const RETRY_MS = 100
/** How much memory all owed responses take at most. */
const MOST_BYTES = 64 * 1024 * 1024
/** What is written at a time. */
const AT_ONCE = { items: 50, bytes: 1024 * 1024 }

/** A response that is not stored yet. It holds bytes and text of its own, nothing of the request or reply. */
export interface PendingWrite {
  readonly claimant: Claimant
  readonly answer: RecordedResponse
  readonly ttl: number
  /** By the monotonic clock. */
  readonly deadline: number
  readonly bytes: number
}

interface PendingWritesOptions {
  store: Pick<IdempotencyStore, 'complete'>
  run: RedisGuard['run']
  log: FastifyBaseLogger
  clock: Clock
}

/** Responses that the store did not take: bounded in bytes, and written as soon as the store is back. */
export class PendingWrites {
  readonly #options: PendingWritesOptions
  readonly #owed = new Set<PendingWrite>()
  readonly #byId = new Map<string, PendingWrite>()
  /** The context of the plugin: a timer that is started by a request would hold that request's. */
  readonly #context = new AsyncResource('idempotency')
  #bytes = 0
  #isFull = false
  #timer: Timer | undefined
  #paying: Promise<void> | undefined

  constructor (options: PendingWritesOptions) {
    this.#options = options
  }

  get bytes (): number { return this.#bytes }
  get size (): number { return this.#owed.size }

  /** The response that is owed for a key, and is to be repeated for it: the store does not have it, and its claim may have expired. */
  find (id: string): PendingWrite | undefined {
    return this.#byId.get(id)
  }

  /** The log has a line for all that are owed at a time. @returns undefined where there is no room */
  queue (claimant: Claimant, answer: RecordedResponse, ttl: number, reason: string): PendingWrite | undefined {
    const { log, clock } = this.#options
    const owed = { claimant, ...ownResponse(answer), ttl, deadline: clock.monotonic() + Math.min(MAX_PENDING_MS, ttl) }
    if (this.#bytes + owed.bytes > MOST_BYTES) {
      if (!this.#isFull) log.warn({ plugin: 'idempotency', reason }, 'idempotency: no more answers are kept for the store, as they are too many')
      this.#isFull = true
      return undefined
    }
    if (this.#owed.size === 0) log.warn({ plugin: 'idempotency', reason }, 'idempotency: an answer is not kept yet')
    this.#owed.add(owed)
    if (!this.#byId.has(claimant.id)) this.#byId.set(claimant.id, owed)
    this.#bytes += owed.bytes
    this.#timer ??= this.#context.runInAsyncScope(() => clock.setInterval(() => { this.#pay().catch(() => {}) }, RETRY_MS).unref())
    return owed
  }

  /** Gives one up. */
  drop (owed: PendingWrite): void {
    if (!this.#owed.delete(owed)) return
    const { id } = owed.claimant
    if (this.#byId.get(id) === owed) this.#byId.delete(id)
    this.#bytes -= owed.bytes
    if (this.#owed.size > 0) return
    this.#isFull = false
    this.#options.clock.clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** The process ends: all are tried once more. */
  async close (): Promise<void> {
    await this.#paying
    await this.#pay()
    if (this.#owed.size > 0) this.#options.log.error({ plugin: 'idempotency', responses: this.#owed.size }, 'idempotency: closed with answers that could not be stored: the same requests may run a second time')
    for (const owed of this.#owed) this.drop(owed)
  }

  async #pay (): Promise<void> {
    this.#paying ??= this.#flushAll().finally(() => { this.#paying = undefined })
    await this.#paying
  }

  /** Writes some at a time, until none of them is taken. */
  async #flushAll (): Promise<void> {
    const now = this.#options.clock.monotonic()
    for (const owed of this.#owed) if (now > owed.deadline) this.drop(owed)
    // One first, so that a store that takes none is not asked for many.
    const [first] = this.#owed
    if (first === undefined) return
    if (!await this.#flushOne(first)) {
      // It may be this one alone that the store does not take.
      if (this.#owed.delete(first)) this.#owed.add(first)
      return
    }
    for (const batch of batchesOf([...this.#owed], ({ bytes }) => bytes, AT_ONCE)) {
      const areTaken = await Promise.all(batch.map(owed => this.#flushOne(owed)))
      if (!areTaken.includes(true)) return
    }
  }

  async #flushOne (owed: PendingWrite): Promise<boolean> {
    if (!this.#owed.has(owed)) return true
    const { store, run, log } = this.#options
    try {
      const isKept = await run(() => store.complete(owed.claimant, owed.answer, owed.ttl))
      if (!isKept) log.warn({ plugin: 'idempotency' }, TAKEN)
      this.drop(owed)
      return true
    } catch {
      return false
    }
  }
}

export const TAKEN = 'idempotency: an answer is not kept, as its key was taken by another request meanwhile'
