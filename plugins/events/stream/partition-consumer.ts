import { backoffMs } from '../../shared/plugin/backoff.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { reasonOf, toError } from '../../shared/plugin/errors.js'
import type { ExclusiveSemaphore } from '../../shared/work-queue/exclusive-semaphore.js'
import { Lease } from '../../shared/work-queue/lease.js'
import type { AssignedPartition } from '../../shared/work-queue/partition-assignment.js'
import { AckBatcher, LeaseLost } from './ack-batcher.js'
import { InFlightEvents, type InFlightEvent } from './in-flight.js'
import type { ResolvedConsumeOptions } from './options.js'
import type { Holder, StreamStore, TakenEvent } from './store.js'
import type { StreamEvent } from './types.js'

/** What a partition's holder tells of. */
export interface PartitionConsumerEvents {
  /** The store could not be asked, or can be again. */
  store (error: Error | undefined): void
  failed (event: TakenEvent, error: Error, attempt: number): void
  died (event: TakenEvent, reason: string, given: number, dropped: number): void
  /** It is not worked on by this process any more. */
  ended (isLost: boolean): void
}

export interface PartitionConsumerOptions<T> {
  store: StreamStore
  index: number
  options: ResolvedConsumeOptions<T>
  /** Milliseconds. */
  lease: number
  clock: Clock
  decode: (event: TakenEvent) => StreamEvent<T>
  /** One for all partitions of a consumer. */
  gate: ExclusiveSemaphore
  events: PartitionConsumerEvents
}

/** How many events are held at most while some keys wait to be given again. */
const MOST_HELD = 1000
const MOST_TAKEN = 100
/** Normally, and alone: from then on an event is given while no other one is, so that it answers for nobody else's end. */
const LEAST_GIVEN = 2
/** New events are told of; what was not heard of is found after this. */
const POLL_MS = 1000
/** After the store failed. */
const REST_MS = 200
const MAX_REASON_LENGTH = 500

/** What belongs to one lease. */
interface Term {
  readonly lease: Lease
  readonly holder: Holder
  readonly acks: AckBatcher
}

/** Has the events of one partition handled for a group, while it has the lease. */
export class PartitionConsumer<T> implements AssignedPartition {
  readonly #options: PartitionConsumerOptions<T>
  #line = new InFlightEvents()
  #term: Term | undefined
  #working: Promise<void> | undefined
  #isStopping = false
  /** How much the line holds of what was taken; `some`: the store may have given more without our hearing of it. */
  #loaded: 'nothing' | 'some' | 'all' = 'nothing'
  /** What was done since loading began: a page may be older than that. */
  #done: Set<string> | undefined
  readonly #running = new Set<Promise<void>>()
  /** How many events the store is asked for at a time: fewer where it fails, as they may be too large to come in time. */
  #page = MOST_TAKEN
  #isAwake = false
  /** For events that may be given. */
  #lookedAt = 0
  #wake = (): void => {}

  constructor (options: PartitionConsumerOptions<T>) {
    this.#options = options
  }

  get isOwned (): boolean {
    return this.#working !== undefined
  }

  async tryOwn (token: string): Promise<void> {
    if (this.#working !== undefined) return
    const { store, index, options: { group }, lease: ms, clock, events } = this.#options
    const asked = clock.monotonic()
    const holder: Holder = { partition: index, group, token }
    const fence = await store.acquire(holder, ms)
    if (fence === undefined) return
    const lease = new Lease(token, fence, ms, asked, clock)
    this.#term = { lease, holder, acks: new AckBatcher(store, holder, lease, events.store, clock) }
    this.#isStopping = false
    this.#working = this.#work(this.#term).finally(() => { this.#term = this.#working = undefined })
  }

  async renew (): Promise<void> {
    if (this.#term === undefined) return
    const { store, lease: ms, clock } = this.#options
    const { lease, holder } = this.#term
    if (lease.signal.aborted) return
    const asked = clock.monotonic()
    if (await store.renew(holder, ms)) lease.extend(asked)
    else lease.end()
  }

  async release (): Promise<void> {
    this.#isStopping = true
    this.#term?.acks.stop()
    this.wake()
    await this.#working
  }

  abandon (): void {
    this.#term?.lease.end()
  }

  /** Looks whether there is something to do. */
  wake (): void {
    this.#isAwake = true
    this.#wake()
  }

  async #work (term: Term): Promise<void> {
    const { store, events } = this.#options
    const { lease: { signal }, lease, holder } = term
    signal.addEventListener('abort', () => this.wake())
    this.#line = new InFlightEvents()
    this.#loaded = 'nothing'
    while (lease.isCertain && !this.#isStopping) {
      try {
        const goesOn = await this.#step(term)
        if (!goesOn) await this.#rest(Math.min(POLL_MS, this.#line.retryAfter(this.#lookedAt) - this.#options.clock.monotonic()))
      } catch (error) {
        if (error instanceof LeaseLost) break
        events.store(toError(error))
        this.#page = Math.max(1, Math.floor(this.#page / 2))
        await this.#rest(REST_MS)
      }
    }
    const isLost = !this.#isStopping
    if (isLost) lease.end()
    await Promise.all(this.#running)
    lease.end()
    events.ended(isLost)
    if (!isLost) await store.release(holder).catch(() => {})
  }

  /** @returns whether there may be more to do at once */
  async #step (term: Term): Promise<boolean> {
    const { options: { concurrency } } = this.#options
    this.#isAwake = false
    if (this.#loaded !== 'all') await this.#load(term)
    this.#lookedAt = this.#options.clock.monotonic()
    for (const held of this.#line.next(this.#lookedAt, concurrency - this.#running.size)) this.#start(term, held)
    const room = MOST_HELD - this.#line.size
    return this.#running.size < concurrency && room > 0 && await this.#take(term, Math.min(room, this.#page))
  }

  /** Reads what was taken: by a holder that is gone, or for us without our hearing of it. */
  async #load ({ holder }: Term): Promise<void> {
    const { store, events } = this.#options
    const isNew = this.#loaded === 'nothing'
    const line = new InFlightEvents()
    const done = this.#done = new Set<string>()
    for (const held of this.#line.running) line.push(held)
    for (const source of ['again', 'log'] as const) {
      for (let after: string | undefined, isFirst = true; isFirst || after !== undefined; isFirst = false) {
        const page = own(await store.pending(holder, source, after, this.#page))
        events.store(undefined)
        for (const event of page.events) {
          if (!done.has(event.entry) && line.find(event) === undefined) line.push(this.#line.find(event) ?? this.#hold(event, isNew ? event.deliveryCount : 0))
        }
        after = page.next
      }
    }
    for (const held of line.running) if (done.has(held.event.entry)) line.remove(held)
    this.#done = undefined
    this.#line = line
    this.#loaded = 'all'
  }

  async #take ({ holder }: Term, count: number): Promise<boolean> {
    const { store, options: { from }, events } = this.#options
    this.#loaded = 'some'
    const taken = own(await store.take(holder, from, count))
    events.store(undefined)
    this.#loaded = 'all'
    for (const event of taken) this.#line.push(this.#hold(event, 0))
    this.#page = Math.min(MOST_TAKEN, this.#page * 2)
    return taken.length > 0
  }

  #hold (event: TakenEvent, given: number): InFlightEvent {
    const { retries } = this.#options.options
    const doomed = given > Math.max(retries, LEAST_GIVEN) ? `given ${given} times without an outcome` : undefined
    return { event, deliveryCount: given, deadReason: doomed, isPoisonSuspect: given >= LEAST_GIVEN, isRunning: false, retryAt: 0 }
  }

  #start (term: Term, held: InFlightEvent): void {
    held.isRunning = true
    const running = this.#options.gate.run(held.isPoisonSuspect, () => this.#handle(term, held)).finally(() => {
      held.isRunning = false
      this.#running.delete(running)
      this.wake()
    })
    this.#running.add(running)
  }

  /** Until it is done, given up, or to be given again. */
  async #handle (term: Term, held: InFlightEvent): Promise<void> {
    if (this.#isStopping) return
    // Where the process was busy for long, this is known before the lease's timer says so.
    if (!term.lease.isCertain) return term.lease.end()
    try {
      if (held.deadReason === undefined && await this.#give(term, held)) await term.acks.add(held.event)
      else if (held.deadReason !== undefined) await this.#giveUp(term, held, held.deadReason)
      else return
      this.#line.remove(held)
      this.#done?.add(held.event.entry)
    } catch (error) {
      if (error instanceof LeaseLost) return term.lease.end()
      this.#options.events.store(toError(error))
      held.retryAt = this.#options.clock.monotonic() + REST_MS
    }
  }

  /** @returns whether it was handled */
  async #give ({ lease, holder }: Term, held: InFlightEvent): Promise<boolean> {
    const { store, decode, options: { handler, retries, backoff }, events } = this.#options
    const { event } = held
    let decoded: StreamEvent<T>
    try {
      decoded = decode(event)
    } catch (error) {
      held.deadReason = `cannot be read: ${reasonOf(error)}`
      return false
    }
    const attempt = held.deliveryCount + 1
    // Told before: it may be what ends the process.
    if (held.deliveryCount > 0 && !await store.mark(holder, event, attempt)) throw new LeaseLost()
    if (!lease.isCertain) throw new LeaseLost()
    try {
      await during(lease, async signal => { await handler(decoded, { attempt, signal }) })
      return true
    } catch (error) {
      if (error instanceof LeaseLost) throw error
      held.deliveryCount = attempt
      events.failed(event, toError(error), attempt)
      if (attempt > retries) held.deadReason = reasonOf(error)
      else held.retryAt = this.#options.clock.monotonic() + backoffMs(attempt, backoff)
      return false
    }
  }

  async #giveUp ({ holder, acks }: Term, { event, deliveryCount }: InFlightEvent, doomed: string): Promise<void> {
    const { store, options: { deadLetter }, events } = this.#options
    const reason = doomed.slice(0, MAX_REASON_LENGTH)
    if (!deadLetter) await acks.add(event)
    const dropped = deadLetter ? own(await store.deadLetter(holder, event, reason, deliveryCount)) : 0
    events.died(event, reason, deliveryCount, dropped)
  }

  async #rest (ms: number): Promise<void> {
    if (this.#isAwake) return
    const { clock } = this.#options
    await new Promise<void>(resolve => {
      const timer = clock.setTimeout(resolve, Math.max(1, ms)).unref()
      this.#wake = () => { clock.clearTimeout(timer); resolve() }
    })
    this.#wake = () => {}
  }
}

function own<R> (result: R | undefined): R {
  if (result === undefined) throw new LeaseLost()
  return result
}

/** Gives the work a signal of its own, and does not wait for it any longer when the lease is lost. */
async function during (lease: Lease, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const stop = new AbortController()
  let onLost = (): void => {}
  const lost = new Promise<never>((_resolve, reject) => {
    onLost = () => {
      stop.abort()
      reject(new LeaseLost())
    }
  })
  lease.signal.addEventListener('abort', onLost)
  try {
    await Promise.race([work(stop.signal), lost])
  } finally {
    lease.signal.removeEventListener('abort', onLost)
  }
}
