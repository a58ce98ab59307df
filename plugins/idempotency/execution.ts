import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { reasonOf } from '../shared/plugin/errors.js'
import { LeaseRenewal } from '../shared/plugin/lease-renewal.js'
import type { RedisGuard } from '../shared/redis/guard.js'
import { TAKEN, type PendingWrite, type PendingWrites } from './pending-writes.js'
import type { Claimant, IdempotencyStore, RecordedResponse } from './store.js'

/** After this a claim is no longer kept: something hangs. */
const MAX_EXECUTION_MS = 10 * 60 * 1000

/** What runs need, of the plugin. */
export interface ExecutionContext {
  store: IdempotencyStore
  run: RedisGuard['run']
  log: FastifyBaseLogger
  clock: Clock
  /** All of this process, until they are over. */
  runs: Set<Execution>
  owed: PendingWrites
}

export interface ExecutionOptions {
  claimant: Claimant
  lease: number
  ttl: number
  /** False where the store could not be asked, and it runs all the same. */
  isClaimed: boolean
  /** Whether it has been answered in a way that is not seen here. */
  isOver: () => boolean
  /** The response's headers before the handler ran. */
  headersBefore: object
}

/** A request that is being done for its key: it keeps the claim until it is over. */
export class Execution {
  readonly #context: ExecutionContext
  readonly #options: ExecutionOptions
  readonly #renewal: LeaseRenewal
  #owed: PendingWrite | undefined
  #isSettled = false
  #isBusy = false
  #isCutOff = false
  /** Whether the answer is an error that was thrown or sent. */
  hasFailed = false
  #keeping: Promise<void> | undefined
  #retracting: Promise<void> | undefined
  /** Whether the answer is stored, and the hooks after this plugin's have it. */
  #isPassedOn = false

  constructor (context: ExecutionContext, options: ExecutionOptions) {
    this.#context = context
    this.#options = options
    this.#renewal = new LeaseRenewal({
      clock: context.clock,
      lease: options.lease,
      renew: () => this.#renew(),
      maxDuration: MAX_EXECUTION_MS,
      onMaxDuration: () => { this.release().catch(() => {}) }
    })
    context.runs.add(this)
  }

  get headersBefore (): object {
    return this.#options.headersBefore
  }

  /** The handler is at work until then. */
  during (work: Promise<unknown>): void {
    this.#isBusy = true
    const done = (): void => {
      this.#isBusy = false
      if (this.#isCutOff) this.release().catch(() => {})
    }
    work.then(done, done)
  }

  /** @param isCutOff - its time is over, which the handler may not know: it keeps the claim until it is done */
  fail (isCutOff: boolean): void {
    this.hasFailed = true
    this.#isCutOff = isCutOff
    // A later hook failed, or the response cannot be sent: the client gets an error.
    if (this.#isPassedOn) this.#retracting ??= this.#retract()
  }

  /** Keeps the answer, or tries to for a while; it never fails. */
  async complete (answer: RecordedResponse): Promise<void> {
    // Of a handler that answers twice the first answer counts, which must then be sent first as well.
    this.#keeping ??= this.#keep(answer)
    await this.#keeping
    this.#isPassedOn = true
  }

  async #keep (answer: RecordedResponse): Promise<void> {
    const { store, run, log, owed } = this.#context
    const { claimant, ttl } = this.#options
    this.#isSettled = true
    try {
      const isKept = await run(() => store.complete(claimant, answer, ttl))
      if (!isKept) log.warn({ plugin: 'idempotency' }, TAKEN)
    } catch (error) {
      this.#owed = owed.queue(claimant, answer, ttl, reasonOf(error))
    } finally {
      this.#end()
    }
  }

  /** Lets the next one run; it never fails. */
  async release (): Promise<void> {
    if (this.#isSettled || this.#goesOn) return await (this.#retracting ?? this.#keeping)
    this.#isSettled = true
    this.#end()
    const { store, run } = this.#context
    // Where it cannot be said, it is so after the lease.
    await run(() => store.release(this.#options.claimant)).catch(() => {})
  }

  async #retract (): Promise<void> {
    const { store, run, log, owed } = this.#context
    if (this.#owed !== undefined) owed.drop(this.#owed)
    await run(() => store.retract(this.#options.claimant)).catch((error: unknown) => {
      log.warn({ plugin: 'idempotency', reason: reasonOf(error) }, 'idempotency: a response that could not be sent stays stored, as the store cannot be asked')
    })
  }

  /** The process ends. */
  async close (): Promise<void> {
    await this.#keeping
    this.#end()
  }

  get #goesOn (): boolean {
    return this.#isCutOff && this.#isBusy && !this.#renewal.isOverdue
  }

  #end (): void {
    this.#renewal.stop()
    this.#context.runs.delete(this)
  }

  async #renew (): Promise<void> {
    // While the response is being stored, the lease is renewed by that.
    if (this.#isSettled) return
    if (this.#options.isOver() && !this.#goesOn) return await this.release()
    const { store, run, log } = this.#context
    const isMine = await run(() => store.renew(this.#options.claimant, this.#options.lease))
    if (isMine || !this.#options.isClaimed || this.#isSettled) return
    // It goes on: what it has done so far cannot be taken back here.
    this.#options.isClaimed = false
    log.warn({ plugin: 'idempotency' }, 'idempotency: a claim ended while its request is under way: the same may run a second time')
  }
}
