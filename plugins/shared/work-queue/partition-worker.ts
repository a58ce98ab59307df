import { backoffMs } from '../plugin/backoff.js'
import type { Clock } from '../plugin/clock.js'
import { MAX_TIMER_MS } from '../plugin/duration.js'
import { reasonOf, toError } from '../plugin/errors.js'
import type { Milliseconds } from '../plugin/units.js'
import { createAckBatcher, STORE_RETRY_MS, type AckBatcher } from './ack-batcher.js'
import type { ExclusiveSemaphore } from './exclusive-semaphore.js'
import { InFlightMessages, isNew, nameOf, type Batch, type InFlightMessage } from './in-flight.js'
import { Lease, LeaseLostError } from './lease.js'
import type { PartitionQueue, TakenMessage } from './queue.js'

/** How the messages of a queue are taken and delivered, the same in all partitions. */
export interface DeliveryOptions<T> {
  /** How many batches of a partition are delivered concurrently. */
  concurrency: number
  /** How many messages a batch has at most. A message that was delivered before is always alone. */
  batchSize: number
  /** How many messages are taken at a time at most. */
  pageSize: number
  /** How many messages of a partition are held at most, while those of some keys wait for a retry. */
  maxHeld: number
  /**
   * How long a partition waits for more messages before it takes them, unless {@link PartitionWorker.flush} is called.
   */
  takeEvery: Milliseconds
  /** Whether messages are also taken whenever a delivery has ended, until none are left. */
  isEager: boolean
  /** How often a message that failed is delivered again. */
  retries: number
  backoff: { min: Milliseconds, max: Milliseconds }
  /** Whether messages that are given up become dead letters. */
  keepsDeadLetters: boolean
  /** Whether a message replaces the waiting ones of its key. */
  keepsLatest: boolean
  /** @throws where the message cannot be decoded: it becomes a dead letter at once */
  decode (message: TakenMessage, partition: number): T
  /**
   * Rejects where the batch failed. The lease's signal aborts when another instance may be delivering the same
   * messages.
   */
  deliver (batch: Batch<T>, lease: Lease, partition: number): Promise<void>
  /**
   * Whether an error shows that the destination as a whole is down. The partition then pauses, and the error does not
   * count as a retry. Never rejects.
   */
  isOutage? (error: unknown, partition: number): Promise<boolean>
  onFailure (batch: Batch<T>, error: Error, partition: number): void
  /** @param dropped - how many older dead letters were dropped */
  onDead (message: InFlightMessage<T>, reason: string, dropped: number, partition: number): void
  /** @param count - how many messages were taken over from an earlier holder of the lease */
  onRedelivery? (count: number): void
  /** The partition is no longer consumed by this process. */
  onReleased? (partition: number): void
}

interface PartitionWorkerOptions<T> {
  queue: PartitionQueue
  partition: number
  delivery: DeliveryOptions<T>
  lease: Milliseconds
  /** Shared by all partitions of a process. */
  semaphore: ExclusiveSemaphore
  clock: Clock
  /** Called with an error when the store failed, and without one when it replied. */
  onStore (error: Error | undefined): void
  /** @param isLost - whether the lease ended before the partition was released */
  onReleased (isLost: boolean): void
}

/**
 * After so many deliveries without an outcome (one in a batch, one alone) a message is suspected to end the process. It
 * is then delivered while no other message is, so that it alone becomes a dead letter.
 */
const MIN_SUSPECT_DELIVERIES = 2
const MAX_REASON_LENGTH = 500

/** A period in which this process holds the partition's lease. */
interface Term {
  readonly lease: Lease
  readonly acks: AckBatcher
}

/** Delivers the messages of one partition while this process holds its lease. */
export class PartitionWorker<T> {
  readonly #options: PartitionWorkerOptions<T>
  #messages: InFlightMessages<T>
  #term: Term | undefined
  #working: Promise<void> | undefined
  #isStopping = false
  /** How many of the taken messages are held; `some`: the store may have returned more in a reply that was lost. */
  #loaded: 'nothing' | 'some' | 'all' = 'nothing'
  /** Messages that were settled while pages are loaded, which may still contain them. */
  #settled: Map<string, InFlightMessage<T>> | undefined
  readonly #running = new Set<Promise<void>>()
  /** Halved when the store fails, as a page may be too large to arrive in time. */
  #pageSize: number
  #isWoken = false
  /** This time and the two below are by the clock's `monotonic()`. */
  #steppedAt = 0
  /** When more messages are taken next. */
  #takeAt = 0
  #pausedUntil = 0
  /** The number of outages of the destination in a row. */
  #outages = 0
  #endRest = (): void => {}

  constructor (options: PartitionWorkerOptions<T>) {
    this.#options = options
    this.#messages = new InFlightMessages(options.delivery.keepsLatest)
    this.#pageSize = options.delivery.pageSize
  }

  get isOwned (): boolean {
    return this.#working !== undefined
  }

  /** How many taken messages this process holds. */
  get size (): number {
    return this.#messages.size
  }

  /** Acquires the lease if no instance holds it. */
  async tryAcquire (token: string): Promise<void> {
    if (this.#working !== undefined) return
    const { queue, lease: ms, clock, onStore } = this.#options
    const requestedAt = clock.monotonic()
    const fence = await queue.acquire(token, ms)
    if (fence === undefined) return
    const lease = new Lease(token, fence, ms, requestedAt, clock)
    this.#term = { lease, acks: createAckBatcher(queue, lease, onStore, clock) }
    this.#isStopping = false
    this.#working = this.#work(this.#term).finally(() => { this.#term = this.#working = undefined })
  }

  async renew (): Promise<void> {
    const { queue, lease: ms, clock } = this.#options
    const lease = this.#term?.lease
    if (lease === undefined || lease.signal.aborted) return
    const requestedAt = clock.monotonic()
    if (await queue.renew(lease.token, ms)) lease.extend(requestedAt)
    else lease.end()
  }

  /** Takes and delivers waiting messages now. */
  flush (): void {
    this.#takeAt = 0
    this.#wake()
  }

  /** Finishes the batches that are running, and releases the lease. */
  async release (): Promise<void> {
    this.#isStopping = true
    this.#term?.acks.stop()
    this.#wake()
    await this.#working
  }

  /** Gives up the batches that are running. */
  abandon (): void {
    this.#term?.lease.end()
  }

  #wake (): void {
    this.#isWoken = true
    this.#endRest()
  }

  async #work (term: Term): Promise<void> {
    const { queue, partition, delivery, clock, onStore, onReleased } = this.#options
    const { lease } = term
    lease.signal.addEventListener('abort', () => this.#wake())
    this.#messages = new InFlightMessages(delivery.keepsLatest)
    this.#loaded = 'nothing'
    this.#takeAt = 0
    while (lease.isCertain && !this.#isStopping) {
      try {
        if (!await this.#step(term)) await this.#rest(this.#dueAt() - clock.monotonic())
      } catch (error) {
        if (error instanceof LeaseLostError) break
        onStore(toError(error))
        this.#pageSize = Math.max(1, Math.floor(this.#pageSize / 2))
        this.#takeAt = 0
        await this.#rest(STORE_RETRY_MS)
      }
    }
    const isLost = !this.#isStopping
    if (isLost) lease.end()
    await Promise.all(this.#running)
    lease.end()
    delivery.onReleased?.(partition)
    onReleased(isLost)
    if (!isLost) await queue.release(lease.token).catch(() => {})
  }

  /** Starts the deliveries that are due, and takes more messages. Returns whether more may be due at once. */
  async #step (term: Term): Promise<boolean> {
    const { delivery: { concurrency, batchSize, maxHeld }, clock } = this.#options
    this.#isWoken = false
    if (this.#loaded !== 'all') await this.#load(term)
    const now = this.#steppedAt = clock.monotonic()
    const isPaused = now < this.#pausedUntil
    const canTake = !isPaused && now >= this.#takeAt && this.size < maxHeld
    const batches = this.#messages.next(now, concurrency - this.#running.size, batchSize, isPaused)
    // A batch with room for more waits for the messages that can be taken.
    const isShort = batches.some(batch => batch.length < batchSize && isNew(batch[0]))
    if (!canTake || !isShort) for (const batch of batches) this.#start(term, batch)
    if (!canTake || this.#running.size >= concurrency) return false
    await this.#take(term)
    return true
  }

  /** Reads the messages that were taken: by an earlier holder of the lease, or in a reply that was lost. */
  async #load ({ lease }: Term): Promise<void> {
    const { queue, delivery, onStore } = this.#options
    const isTakeover = this.#loaded === 'nothing'
    const messages = new InFlightMessages<T>(delivery.keepsLatest)
    const settled = this.#settled = new Map<string, InFlightMessage<T>>()
    for (const running of this.#messages.running) messages.push(running)
    let redelivered = 0
    let after: string | undefined
    do {
      const page = orLost(await queue.pending(lease.token, after, this.#pageSize))
      onStore(undefined)
      for (const message of page.messages) {
        if (settled.has(nameOf(message)) || messages.find(message) !== undefined) continue
        const known = this.#messages.find(message)
        if (known !== undefined) known.superseded = []
        messages.push(known ?? this.#hold(message, isTakeover ? message.deliveryCount : 0))
        if (isTakeover) redelivered++
      }
      after = page.next
    } while (after !== undefined)
    for (const message of settled.values()) messages.remove(message)
    this.#settled = undefined
    this.#messages = messages
    this.#loaded = 'all'
    if (redelivered > 0) delivery.onRedelivery?.(redelivered)
  }

  async #take ({ lease }: Term): Promise<void> {
    const { queue, delivery: { pageSize, maxHeld, takeEvery, isEager }, onStore, clock } = this.#options
    const count = Math.min(this.#pageSize, maxHeld - this.size)
    this.#loaded = 'some'
    this.#takeAt = Infinity
    const taken = orLost(await queue.take(lease.token, count))
    onStore(undefined)
    this.#loaded = 'all'
    for (const message of taken) this.#messages.push(this.#hold(message, 0))
    this.#pageSize = Math.min(pageSize, this.#pageSize * 2)
    const hasMore = taken.length === count || (isEager && taken.length > 0)
    // A flush that came meanwhile takes once more.
    this.#takeAt = Math.min(this.#takeAt, hasMore ? 0 : clock.monotonic() + takeEvery)
  }

  #hold (message: TakenMessage, deliveryCount: number): InFlightMessage<T> {
    const { delivery: { retries, decode }, partition } = this.#options
    const isPoisonSuspect = deliveryCount >= MIN_SUSPECT_DELIVERIES
    const isPoison = deliveryCount > Math.max(retries, MIN_SUSPECT_DELIVERIES)
    const deadReason = isPoison ? `delivered ${deliveryCount} times without an outcome` : undefined
    const held = { taken: message, deliveryCount, isPoisonSuspect, isRunning: false, retryAt: 0, superseded: [] }
    try {
      return { ...held, value: decode(message, partition), deadReason }
    } catch (error) {
      return { ...held, value: undefined, deadReason: `cannot be decoded: ${reasonOf(error)}` }
    }
  }

  #start (term: Term, batch: Batch<T>): void {
    for (const message of batch) message.isRunning = true
    const { semaphore, delivery: { isEager } } = this.#options
    const isExclusive = batch.some(({ isPoisonSuspect }) => isPoisonSuspect)
    const running = semaphore.run(isExclusive, () => this.#process(term, batch)).finally(() => {
      for (const message of batch) message.isRunning = false
      this.#running.delete(running)
      if (isEager) this.#takeAt = 0
      this.#wake()
    })
    this.#running.add(running)
  }

  /** Resolves when the batch was delivered, was given up, or has to be retried. */
  async #process (term: Term, batch: Batch<T>): Promise<void> {
    if (this.#isStopping) return
    // After a stall of the process the lease may have expired before its timer fires.
    if (!term.lease.isCertain) return term.lease.end()
    const { deadReason } = batch[0]
    try {
      if (deadReason !== undefined) await this.#giveUp(term, batch[0], deadReason)
      else if (!await this.#deliver(term, batch)) return
      for (const message of batch) {
        this.#messages.remove(message)
        this.#settled?.set(nameOf(message.taken), message)
      }
    } catch (error) {
      if (error instanceof LeaseLostError) return term.lease.end()
      this.#options.onStore(toError(error))
      for (const message of batch) message.retryAt = this.#options.clock.monotonic() + STORE_RETRY_MS
    }
  }

  /** Returns whether the batch was delivered and acknowledged. */
  async #deliver ({ lease, acks }: Term, batch: Batch<T>): Promise<boolean> {
    const { queue, partition, delivery } = this.#options
    const [{ taken: message, deliveryCount }] = batch
    // The count is stored before the delivery, which may end the process.
    const isMarked = deliveryCount === 0 || await queue.mark(lease.token, message, deliveryCount + 1)
    if (!isMarked || !lease.isCertain) throw new LeaseLostError()
    try {
      await delivery.deliver(batch, lease, partition)
    } catch (error) {
      if (error instanceof LeaseLostError) throw error
      await this.#fail(batch, toError(error))
      return false
    }
    this.#outages = 0
    // Older messages come first: a partial acknowledgement never leaves one that is older than an acknowledged one.
    await acks.add([...batch.flatMap(({ superseded }) => superseded), ...batch.map(({ taken }) => taken)])
    return true
  }

  async #fail (batch: Batch<T>, error: Error): Promise<void> {
    const { partition, delivery: { retries, backoff, isOutage, onFailure }, clock } = this.#options
    const isDown = await isOutage?.(error, partition)
    onFailure(batch, error, partition)
    if (isDown) {
      this.#pausedUntil = clock.monotonic() + backoffMs(++this.#outages, backoff)
      return
    }
    this.#outages = 0
    for (const message of batch) message.deliveryCount++
    // Any message of a batch may be the cause, so each is delivered alone next, without a delay.
    if (batch.length > 1) return
    const [message] = batch
    if (message.deliveryCount > retries) message.deadReason = reasonOf(error)
    else message.retryAt = clock.monotonic() + backoffMs(message.deliveryCount, backoff)
  }

  async #giveUp ({ lease, acks }: Term, message: InFlightMessage<T>, deadReason: string): Promise<void> {
    const { queue, partition, delivery: { keepsDeadLetters, onDead } } = this.#options
    const reason = deadReason.slice(0, MAX_REASON_LENGTH)
    const obsolete = keepsDeadLetters ? message.superseded : [...message.superseded, message.taken]
    if (obsolete.length > 0) await acks.add(obsolete)
    const dropped = keepsDeadLetters
      ? orLost(await queue.deadLetter(lease.token, message.taken, reason, message.deliveryCount))
      : 0
    onDead(message, reason, dropped, partition)
  }

  /** Returns when there may be something to do, unless a delivery ends or `flush` is called before. */
  #dueAt (): number {
    const { delivery: { concurrency, maxHeld } } = this.#options
    if (this.#pausedUntil > this.#steppedAt) return this.#pausedUntil
    const takeAt = this.#running.size < concurrency && this.size < maxHeld ? this.#takeAt : Infinity
    return Math.min(takeAt, this.#messages.nextRetryAfter(this.#steppedAt))
  }

  async #rest (ms: number): Promise<void> {
    if (this.#isWoken) return
    const { clock } = this.#options
    await new Promise<void>(resolve => {
      const timer = clock.setTimeout(resolve, Math.min(MAX_TIMER_MS, Math.max(1, ms))).unref()
      this.#endRest = () => { clock.clearTimeout(timer); resolve() }
    })
    this.#endRest = () => {}
  }
}

/** @throws {@link LeaseLostError} where the store replied that the lease is lost */
function orLost<R> (reply: R | undefined): R {
  if (reply === undefined) throw new LeaseLostError()
  return reply
}
