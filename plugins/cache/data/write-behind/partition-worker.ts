import type { Clock } from '../../../shared/plugin/clock.js'
import { reasonOf, toError } from '../../../shared/plugin/errors.js'
import { backoffMs } from '../../../shared/plugin/backoff.js'
import { MAX_TIMER_MS } from '../../../shared/plugin/duration.js'
import type { ExclusiveSemaphore } from '../../../shared/work-queue/exclusive-semaphore.js'
import { Lease } from '../../../shared/work-queue/lease.js'
import { RELEASE_MS } from '../../../shared/work-queue/partition-assignment.js'
import type { WritePartitionEvents } from './partition-events.js'
import { WriteQueue, type QueuedWrite } from './write-queue.js'
import type { ResolvedWriteBehindOptions } from './options.js'
import { flushBatch, isOutageOf, toWrite } from './flush-batch.js'
import type { WriteBehindStore, StoredWrite } from './store.js'

export interface PartitionWorkerOptions<T> {
  store: WriteBehindStore
  index: number
  options: ResolvedWriteBehindOptions<T>
  /** Milliseconds. */
  lease: number
  decode: (bytes: Buffer) => T
  /** One for all partitions of a process. */
  gate: ExclusiveSemaphore
  events: WritePartitionEvents
  clock: Clock
}

/** How many batches are held at most while writes of some keys wait to be given again. */
const MOST_BATCHES = 10
const LEAST_HELD = 100
/** With a batch, and alone: from then on a write is given while no other one is, so that it answers for nobody else's end. */
const LEAST_GIVEN = 2
/** After the store failed. */
const REST_MS = 200
const STOPPING_REST_MS = 20
const MAX_REASON_LENGTH = 500

class LeaseLost extends Error {}

/** Writes what lies in one partition to the source, while it has its lease. */
export class PartitionWorker<T> {
  readonly #options: PartitionWorkerOptions<T>
  readonly #clock: Clock
  #line: WriteQueue<T>
  readonly #mostHeld: number
  #lease: Lease | undefined
  #working: Promise<void> | undefined
  #isStopping = false
  /** While it is stopping: until when a store that fails is asked, by the clock's `monotonic()`. */
  #askUntil = Infinity
  /** Written, and not yet told to the store. */
  #done: string[] = []
  /** How much the line holds of what was taken; `some`: the store may have given more without our hearing of it. */
  #loaded: 'nothing' | 'some' | 'all' = 'nothing'
  #flushAt = 0
  #isFlushing = false
  #pausedUntil = 0
  /** How many writes the store is asked for at a time: fewer where it fails, as they may be too large to come in time. */
  #page: number
  #outages = 0
  #wake = (): void => {}

  constructor (options: PartitionWorkerOptions<T>) {
    this.#options = options
    this.#clock = options.clock
    this.#line = new WriteQueue(options.options.latest)
    this.#page = options.options.batch
    this.#mostHeld = Math.max(options.options.batch * MOST_BATCHES, LEAST_HELD)
  }

  get isOwned (): boolean {
    return this.#working !== undefined
  }

  /** Takes the lease if nobody has it. */
  async tryOwn (token: string): Promise<void> {
    if (this.#working !== undefined) return
    const { store, index, lease: ms } = this.#options
    const asked = this.#clock.monotonic()
    const fence = await store.acquire(index, token, ms)
    if (fence === undefined) return
    const lease = new Lease(token, fence, ms, asked, this.#clock)
    this.#lease = lease
    this.#isStopping = false
    this.#askUntil = Infinity
    this.#working = this.#work(lease).finally(() => { this.#lease = this.#working = undefined })
  }

  async renew (): Promise<void> {
    const { store, index, lease: ms } = this.#options
    const lease = this.#lease
    if (lease === undefined || lease.signal.aborted) return
    const asked = this.#clock.monotonic()
    if (await store.renew(index, lease.token, ms)) lease.extend(asked)
    else lease.end()
  }

  /** Writes what is there without waiting for more. */
  flush (): void {
    this.#isFlushing = true
    this.#wake()
  }

  /** @param backlog - how many writes wait in this partition, as an accepted one has just shown */
  added (backlog: number): void {
    if (backlog - this.#line.size >= this.#options.options.batch) this.flush()
  }

  /** Ends when the batch at hand is written, and gives the lease back. */
  async release (): Promise<void> {
    this.#isStopping = true
    this.#askUntil = Math.min(this.#askUntil, this.#clock.monotonic() + RELEASE_MS)
    this.#wake()
    await this.#working
  }

  /** Does not wait for the batch at hand any longer. */
  abandon (): void {
    this.#lease?.end()
  }

  async #work (lease: Lease): Promise<void> {
    const { store, index, events } = this.#options
    const { signal } = lease
    signal.addEventListener('abort', () => this.#wake())
    this.#line = new WriteQueue(this.#options.options.latest)
    this.#done = []
    this.#loaded = 'nothing'
    this.#isFlushing = true
    while (!signal.aborted && !(this.#isStopping && this.#done.length === 0)) {
      try {
        const goesOn = await this.#step(lease)
        events.store(undefined)
        if (!goesOn) await this.#rest(this.#restMs())
      } catch (error) {
        if (error instanceof LeaseLost) break
        events.store(toError(error))
        if (this.#clock.monotonic() >= this.#askUntil) break
        this.#page = Math.max(1, Math.floor(this.#page / 2))
        await this.#rest(REST_MS)
      }
    }
    const isLost = !this.#isStopping
    lease.end()
    events.ended(isLost)
    if (!isLost) await store.release(index, lease.token).catch(() => {})
  }

  /** @returns whether there may be more to do at once */
  async #step (lease: Lease): Promise<boolean> {
    const { options: { batch } } = this.#options
    if (this.#done.length > 0) await this.#acknowledge(lease)
    if (this.#isStopping) return false
    if (this.#loaded !== 'all') await this.#load(lease)
    const { doomed } = this.#line
    if (doomed !== undefined) {
      await this.#bury(lease, doomed)
      return true
    }
    const now = this.#clock.monotonic()
    if (now < this.#pausedUntil) return false
    let writes = this.#line.next(now, batch)
    if (writes.length < batch && this.#line.size < this.#mostHeld && (this.#isFlushing || now >= this.#flushAt)) {
      await this.#take(lease)
      writes = this.#line.next(now, batch)
    }
    if (this.#line.doomed !== undefined) return true
    if (writes.length === 0 || !lease.isCertain) return false
    await this.#options.gate.run(writes.some(({ isPoisonSuspect }) => isPoisonSuspect), () => this.#give(lease, writes))
    return true
  }

  /** Reads what was taken: by a writer that is gone, or for us without our hearing of it. */
  async #load (lease: Lease): Promise<void> {
    const { store, index, options: { retries }, events } = this.#options
    const isNew = this.#loaded === 'nothing'
    const count = this.#page
    const line = new WriteQueue<T>(this.#options.options.latest)
    let redelivered = 0
    for (let after: string | undefined; ;) {
      const page = own(await store.pending(index, lease.token, after, count))
      for (const stored of page) {
        const known = this.#line.find(stored.id)
        const write = known ?? this.#decode(stored, isNew ? stored.deliveryCount : 0)
        write.superseded.length = 0
        if (isNew) redelivered++
        if (isNew) write.isPoisonSuspect = write.deliveryCount >= LEAST_GIVEN
        if (isNew && write.deliveryCount > Math.max(retries, LEAST_GIVEN)) write.deadReason ??= `given ${write.deliveryCount} times without an outcome`
        line.push(write)
      }
      after = page.at(-1)?.id
      if (page.length < count) break
    }
    this.#line = line
    this.#loaded = 'all'
    if (redelivered > 0) events.count('redelivered', redelivered)
  }

  async #take (lease: Lease): Promise<void> {
    const { store, index, options: { batch, flushEvery } } = this.#options
    const count = Math.min(this.#page, this.#mostHeld - this.#line.size)
    this.#isFlushing = false
    this.#loaded = 'some'
    const taken = own(await store.take(index, lease.token, count))
    this.#loaded = 'all'
    for (const stored of taken) this.#line.push(this.#decode(stored, 0))
    this.#isFlushing ||= taken.length === count
    this.#page = Math.min(batch, this.#page * 2)
    this.#flushAt = this.#clock.monotonic() + flushEvery
  }

  async #give (lease: Lease, writes: ReadonlyArray<QueuedWrite<T>>): Promise<void> {
    const { store, index, options, events } = this.#options
    const [first] = writes
    // Told before: it may be what ends the process.
    const isMarked = first === undefined || first.deliveryCount === 0 || await store.mark(index, lease.token, first.id, first.deliveryCount + 1)
    if (!isMarked) throw new LeaseLost()
    if (!lease.isCertain) return
    try {
      await flushBatch(options, lease, writes.map(write => toWrite(write, index)), this.#clock)
    } catch (error) {
      const isOutage = await isOutageOf(options, error, this.#clock).catch((failure: unknown) => {
        events.unjudged(toError(failure))
        return false
      })
      return this.#failed(writes, toError(error), isOutage)
    }
    this.#outages = 0
    events.source(undefined)
    this.#line.remove(writes)
    const covered = writes.flatMap(write => write.superseded)
    events.count('written', writes.length)
    events.count('superseded', covered.length)
    // The older first: what is left if this is cut short is never older than what is gone.
    this.#done.push(...covered, ...writes.map(({ id }) => id))
    await this.#acknowledge(lease)
  }

  #failed (writes: ReadonlyArray<QueuedWrite<T>>, error: Error, isOutage: boolean): void {
    const { options: { retries, backoff }, events } = this.#options
    events.failed(error, writes.length)
    if (isOutage) {
      events.source(error)
      this.#pausedUntil = this.#clock.monotonic() + backoffMs(++this.#outages, backoff)
      return
    }
    this.#outages = 0
    for (const write of writes) write.deliveryCount++
    // Of several nobody knows which one it was: each is given alone, at once.
    if (writes.length > 1) return
    for (const write of writes) {
      if (write.deliveryCount > retries) write.deadReason = error.message
      else write.retryAt = this.#clock.monotonic() + backoffMs(write.deliveryCount, backoff)
    }
  }

  async #acknowledge (lease: Lease): Promise<void> {
    const { store, index } = this.#options
    if (!await store.ack(index, lease.token, this.#done)) throw new LeaseLost()
    this.#done = []
  }

  async #bury (lease: Lease, write: QueuedWrite<T>): Promise<void> {
    const { store, index, options: { maxDeadLetters: most }, events } = this.#options
    const { id, key, deliveryCount, superseded } = write
    const reason = (write.deadReason ?? '').slice(0, MAX_REASON_LENGTH)
    const dropped = own(await store.deadLetter(index, lease.token, id, { reason, given: deliveryCount, covered: superseded, most }))
    this.#line.remove([write])
    events.died({ id, key, reason, given: deliveryCount }, dropped)
  }

  #decode ({ id, key, value: bytes }: StoredWrite, deliveryCount: number): QueuedWrite<T> {
    const write = { id, key, deliveryCount, isPoisonSuspect: false, retryAt: 0, superseded: [] }
    try {
      return { ...write, value: this.#options.decode(bytes), deadReason: undefined }
    } catch (error) {
      return { ...write, value: undefined, deadReason: `cannot be read: ${reasonOf(error)}` }
    }
  }

  #restMs (): number {
    const now = this.#clock.monotonic()
    const nextTake = this.#line.size >= this.#mostHeld ? Infinity : this.#isFlushing ? now : this.#flushAt
    const next = Math.max(Math.min(nextTake, this.#line.retryAt), this.#pausedUntil)
    return Math.min(MAX_TIMER_MS, Math.max(1, next - now))
  }

  async #rest (ms: number): Promise<void> {
    await new Promise<void>(resolve => {
      const timer = this.#clock.setTimeout(resolve, this.#isStopping ? Math.min(ms, STOPPING_REST_MS) : ms).unref()
      this.#wake = () => { this.#clock.clearTimeout(timer); resolve() }
    })
    this.#wake = () => {}
  }
}

function own<R> (result: R | undefined): R {
  if (result === undefined) throw new LeaseLost()
  return result
}
