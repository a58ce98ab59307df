import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Timer } from '../shared/clock.js'
import { reasonOf } from '../shared/errors.js'
import type { RedisGuard } from '../shared/guard.js'
import type { Claimant, IdempotencyStore, StoredAnswer } from './store.js'

/** After this a claim is no longer kept: something hangs. */
const LONGEST_RUN_MS = 10 * 60 * 1000
/** For so long it is tried to keep an answer that the store did not take. */
const LONGEST_DEBT_MS = 60 * 1000
/** All answers that are owed take no more than this. */
const MOST_OWED_BYTES = 64 * 1024 * 1024
/** What one takes beside its body, roughly. */
const ENTRY_BYTES = 1024

/** What runs need, of the plugin. */
export interface RunContext {
  store: IdempotencyStore
  run: RedisGuard['run']
  log: FastifyBaseLogger
  clock: Clock
  /** All of this process, until they are over. */
  runs: Set<Run>
  debts: Debts
}

/** Answers that the store did not take yet. */
export interface Debts {
  bytes: number
  isFull: boolean
}

export interface RunOptions {
  claimant: Claimant
  lease: number
  ttl: number
  /** False where the store could not be asked, and it runs all the same. */
  isClaimed: boolean
  /** Whether it has been answered in a way that is not seen here. */
  isOver: () => boolean
}

/** A request that is being done for its key: it keeps the claim until it is over. */
export class Run {
  readonly #context: RunContext
  readonly #options: RunOptions
  readonly #timer: Timer
  #deadline: number
  #owed: StoredAnswer | undefined
  #owedBytes = 0
  #isSettled = false
  #isBusy = false
  #isCutOff = false
  /** Whether the answer is an error that was thrown or sent. */
  hasFailed = false
  #keeping: Promise<void> | undefined
  #retracting: Promise<void> | undefined
  /** Whether the answer is stored, and the hooks after this plugin's have it. */
  #isPassedOn = false

  constructor (context: RunContext, options: RunOptions) {
    this.#context = context
    this.#options = options
    this.#deadline = context.clock.monotonic() + LONGEST_RUN_MS
    this.#timer = context.clock.setInterval(() => { this.#tick() }, options.lease / 3)
    this.#timer.unref()
    context.runs.add(this)
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
  async complete (answer: StoredAnswer): Promise<void> {
    // Of a handler that answers twice the first answer counts, which must then be sent first as well.
    this.#keeping ??= this.#keep(answer)
    await this.#keeping
    this.#isPassedOn = true
  }

  async #keep (answer: StoredAnswer): Promise<void> {
    this.#isSettled = true
    this.#owed = answer
    this.#deadline = this.#context.clock.monotonic() + Math.min(LONGEST_DEBT_MS, this.#options.ttl)
    await this.#pay(true)
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
    const { store, run, log } = this.#context
    this.#end()
    await run(() => store.retract(this.#options.claimant)).catch((error: unknown) => {
      log.warn({ plugin: 'idempotency', reason: reasonOf(error) }, 'idempotency: a response that could not be sent stays stored, as the store cannot be asked')
    })
  }

  /** The process ends: what is owed is tried once more. */
  async close (): Promise<void> {
    if (this.#owed !== undefined) await this.#pay(false)
    this.#end()
  }

  get #goesOn (): boolean {
    return this.#isCutOff && this.#isBusy && this.#context.clock.monotonic() < this.#deadline
  }

  #end (): void {
    this.#context.clock.clearInterval(this.#timer)
    this.#owed = undefined
    const { runs, debts } = this.#context
    runs.delete(this)
    debts.bytes -= this.#owedBytes
    this.#owedBytes = 0
    if (debts.bytes === 0) debts.isFull = false
  }

  #tick (): void {
    const isLate = this.#context.clock.monotonic() > this.#deadline
    if (this.#owed !== undefined) {
      if (isLate) this.#end()
      else this.#pay(false).catch(() => {})
    } else if (isLate || (this.#options.isOver() && !this.#goesOn)) {
      this.release().catch(() => {})
    } else {
      this.#renew().catch(() => {})
    }
  }

  async #pay (isFirst: boolean): Promise<void> {
    const { store, run, log } = this.#context
    const answer = this.#owed
    if (answer === undefined) return
    try {
      const isKept = await run(() => store.complete(this.#options.claimant, answer, this.#options.ttl))
      if (!isKept) log.warn({ plugin: 'idempotency' }, 'idempotency: an answer is not kept, as its key was taken by another request meanwhile')
      this.#end()
    } catch (error) {
      if (isFirst && this.#owed !== undefined) this.#owe(answer, reasonOf(error))
    }
  }

  /** The log has a line for all that are owed at a time. */
  #owe ({ body }: StoredAnswer, reason: string): void {
    const { debts, log } = this.#context
    const bytes = ENTRY_BYTES + (body instanceof Buffer ? body.length : 0)
    if (debts.bytes + bytes > MOST_OWED_BYTES) {
      if (!debts.isFull) log.warn({ plugin: 'idempotency', reason }, 'idempotency: no more answers are kept for the store, as they are too many')
      debts.isFull = true
      return this.#end()
    }
    if (debts.bytes === 0) log.warn({ plugin: 'idempotency', reason }, 'idempotency: an answer is not kept yet')
    this.#owedBytes = bytes
    debts.bytes += bytes
  }

  async #renew (): Promise<void> {
    const { store, run, log } = this.#context
    const isMine = await run(() => store.renew(this.#options.claimant, this.#options.lease))
    if (isMine || !this.#options.isClaimed || this.#isSettled) return
    // It goes on: what it has done so far cannot be taken back here.
    this.#options.isClaimed = false
    log.warn({ plugin: 'idempotency' }, 'idempotency: a claim ended while its request is under way: the same may run a second time')
  }
}
