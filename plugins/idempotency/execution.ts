import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { reasonOf } from '../shared/plugin/errors.js'
import { LeaseRenewal } from '../shared/plugin/lease-renewal.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import type { RedisGuard } from '../shared/redis/guard.js'
import { KEY_TAKEN, type PendingWrite, type PendingWrites } from './pending-writes.js'
import type { IdempotencyStore, KeyedRequest, RecordedResponse } from './store.js'

/** After this time a request is taken to hang, and its key is released. */
const MAX_EXECUTION_MS = 10 * 60 * 1000

/** The services of the plugin that executions use. */
export interface ExecutionContext {
  store: IdempotencyStore
  run: RedisGuard['run']
  log: FastifyBaseLogger
  clock: Clock
  /** All executions of this process that are in progress. */
  executions: Set<Execution>
  pendingWrites: PendingWrites
}

interface ExecutionOptions {
  request: KeyedRequest
  lease: Milliseconds
  ttl: Milliseconds
  /** False if the store was unavailable, and the request runs without its key. */
  hasKey: boolean
  /** Whether a hijacked reply has ended. */
  isOver: () => boolean
  /** The response's headers before the handler ran. */
  headersBefore: object
}

/** The execution of a request: renews the key's lease until the response is stored or the key is released. */
export class Execution {
  readonly #context: ExecutionContext
  readonly #options: ExecutionOptions
  readonly #renewal: LeaseRenewal
  #hasKey: boolean
  /** Set once: the response is being stored, or the key is released. */
  #isSettled = false
  #isHandlerRunning = false
  #isTimedOut = false
  /** Whether the response is an error that was thrown or sent. */
  hasFailed = false
  #storing: Promise<void> | undefined
  /** Whether the response is stored, so that the next hooks process it. */
  #isStored = false
  #pendingWrite: PendingWrite | undefined
  #retracting: Promise<void> | undefined

  constructor (context: ExecutionContext, options: ExecutionOptions) {
    this.#context = context
    this.#options = options
    this.#hasKey = options.hasKey
    this.#renewal = new LeaseRenewal({
      clock: context.clock,
      lease: options.lease,
      renew: () => this.#renew(),
      maxDuration: MAX_EXECUTION_MS,
      onMaxDuration: () => { this.release().catch(() => {}) }
    })
    context.executions.add(this)
  }

  get headersBefore (): object {
    return this.#options.headersBefore
  }

  /** Notes that the handler runs until its promise settles. */
  during (handler: Promise<unknown>): void {
    this.#isHandlerRunning = true
    const onSettled = (): void => {
      this.#isHandlerRunning = false
      if (this.#isTimedOut) this.release().catch(() => {})
    }
    handler.then(onSettled, onSettled)
  }

  /** @param isTimedOut - Fastify's `handlerTimeout` is over: the handler may go on, and has the key until it ends */
  fail (isTimedOut: boolean): void {
    this.hasFailed = true
    this.#isTimedOut = isTimedOut
    // A later hook failed, or the response cannot be sent: the client gets an error.
    if (this.#isStored) this.#retracting ??= this.#retract()
  }

  /** Stores the response, or queues it if the store is unavailable; never rejects. */
  async complete (response: RecordedResponse): Promise<void> {
    // If a handler sends twice, the first response counts: it has to be sent first as well.
    this.#storing ??= this.#store(response)
    await this.#storing
    this.#isStored = true
  }

  async #store (response: RecordedResponse): Promise<void> {
    const { store, run, log, pendingWrites } = this.#context
    const { request, ttl } = this.#options
    this.#isSettled = true
    try {
      const isStored = await run(() => store.complete(request, response, ttl))
      if (!isStored) log.warn({ plugin: 'idempotency' }, KEY_TAKEN)
    } catch (error) {
      this.#pendingWrite = pendingWrites.queue(request, response, ttl, reasonOf(error))
    } finally {
      this.#end()
    }
  }

  /** Releases the key; never rejects. If the store is unavailable, the key is free after its lease. */
  async release (): Promise<void> {
    if (this.#isSettled || this.#goesOn) return await (this.#retracting ?? this.#storing)
    this.#isSettled = true
    this.#end()
    const { store, run } = this.#context
    await run(() => store.release(this.#options.request)).catch(() => {})
  }

  async #retract (): Promise<void> {
    const { store, run, log, pendingWrites } = this.#context
    if (this.#pendingWrite !== undefined) pendingWrites.cancel(this.#pendingWrite)
    await run(() => store.retract(this.#options.request)).catch((error: unknown) => {
      log.warn(
        { plugin: 'idempotency', reason: reasonOf(error) },
        'idempotency: a response that could not be sent stays stored, as the store is unavailable'
      )
    })
  }

  /** Ends the execution when the app closes. */
  async close (): Promise<void> {
    await this.#storing
    this.#end()
  }

  get #goesOn (): boolean {
    return this.#isTimedOut && this.#isHandlerRunning && !this.#renewal.isOverdue
  }

  #end (): void {
    this.#renewal.stop()
    this.#context.executions.delete(this)
  }

  async #renew (): Promise<void> {
    // A response that is being stored renews the key itself.
    if (this.#isSettled) return
    if (this.#options.isOver() && !this.#goesOn) return await this.release()
    const { store, run, log } = this.#context
    const isRenewed = await run(() => store.renew(this.#options.request, this.#options.lease))
    if (isRenewed || !this.#hasKey || this.#isSettled) return
    // The request goes on: its effects so far cannot be undone here.
    this.#hasKey = false
    log.warn(
      { plugin: 'idempotency' },
      'idempotency: a lease expired while its request was in progress: the same request may run a second time'
    )
  }
}
