import type { FastifyBaseLogger } from 'fastify'
import { sleep, type Clock } from '../../shared/plugin/clock.js'
import { toError } from '../../shared/plugin/errors.js'
import { STORE_RETRY_MS } from '../../shared/work-queue/ack-batcher.js'
import { createOutageLog, type OutageLog } from '../../shared/work-queue/outage-log.js'
import type { StoredMessage } from '../../shared/work-queue/queue.js'
import { decodeEvent } from './codec.js'
import { cursorOf, positionOf, START, type Position } from './cursor.js'
import type { AppendNotifier, StreamStore } from './store.js'
import { Tail } from './tail.js'
import type { StreamEvent } from './types.js'

interface ReadersOptions {
  name: string
  store: StreamStore
  notifier: AppendNotifier
  partitions: number
  log: FastifyBaseLogger
  clock: Clock
}

/** Events whose notification was lost are found after this. */
const POLL_MS = 1000

/** The positions at which iterables start, which are known later. */
const starts = new WeakMap<object, Promise<unknown>>()

/**
 * Resolves when the start of `events` is known, so that every event appended from then on is read; or when the store
 * failed to return it.
 */
export async function startOf (events: object): Promise<void> {
  await starts.get(events)?.catch(() => {})
}

/** All readers of a stream in this process. They share one look-up of new events. */
export class Readers {
  readonly #options: ReadersOptions
  readonly #indices: readonly number[]
  readonly #outages: OutageLog
  readonly #open = new Set<AbortController>()
  readonly #waiting = new Set<() => void>()
  #tails: Array<Promise<Tail>> = []
  #changes = 0
  #isClosed = false
  #stop = (): void => {}

  constructor (options: ReadersOptions) {
    this.#options = options
    this.#indices = Array.from({ length: options.partitions }, (_, index) => index)
    this.#outages = createOutageLog(options.log, { plugin: 'events', stream: options.name },
      'events: a stream cannot be read, its readers wait', 'events: a stream is read again')
  }

  /** @param after - undefined: from now on */
  read<T> (after: Position[] | undefined, signal: AbortSignal | undefined): AsyncIterable<StreamEvent<T>> {
    const start = after === undefined ? this.#lastPositions() : Promise.resolve(after)
    // An iterator sees the rejection, and retries.
    start.catch(() => {})
    const events = { [Symbol.asyncIterator]: () => this.#iterate<T>(start, signal) }
    starts.set(events, start)
    return events
  }

  close (): void {
    this.#isClosed = true
    for (const reader of this.#open) reader.abort()
  }

  async #lastPositions (): Promise<Position[]> {
    return await Promise.all(this.#indices.map(async index => {
      const { last, count } = await this.#options.store.state(index)
      return { id: last ?? START.id, n: count }
    }))
  }

  /** Wraps the generator, as `return()` of a generator that waits takes effect only when it resumes. */
  #iterate<T> (start: Promise<Position[]>, signal: AbortSignal | undefined): AsyncIterator<StreamEvent<T>> {
    const reader = new AbortController()
    const end = () => reader.abort()
    reader.signal.addEventListener('abort', () => signal?.removeEventListener('abort', end))
    signal?.addEventListener('abort', end)
    if (signal?.aborted || this.#isClosed) end()
    const events = this.#events<T>(start, reader)
    return {
      next: () => events.next(),
      async return () {
        end()
        return await events.return(undefined)
      }
    }
  }

  async * #events<T> (start: Promise<Position[]>, reader: AbortController): AsyncGenerator<StreamEvent<T>, undefined> {
    const { signal } = reader
    this.#enter(reader)
    try {
      const gaps = new Set<number>()
      // Events may have been missed between the call of `read` and a start that is found only now.
      const startLate = async () => {
        const positions = await this.#lastPositions()
        for (const index of this.#indices) gaps.add(index)
        return positions
      }
      const positions = await this.#retry(() => start, startLate, signal) ?? []
      while (!signal.aborted) {
        const changes = this.#changes
        let isIdle = true
        for (const index of this.#indices) {
          const find = async () => await (await this.#tail(index)).after(positions[index]?.id ?? START.id)
          for (const stored of await this.#retry(find, find, signal) ?? []) {
            isIdle = false
            const event = advance<T>(positions, index, stored, gaps)
            if (event !== undefined && !signal.aborted) yield event
          }
        }
        if (isIdle) await this.#changeAfter(changes, signal)
      }
    } finally {
      reader.abort()
    }
    return undefined
  }

  /** Calls the store until it replies. Returns undefined when the signal aborts. */
  async #retry<R> (first: () => Promise<R>, again: () => Promise<R>, signal: AbortSignal): Promise<R | undefined> {
    for (let attempt = first; !signal.aborted; attempt = again) {
      try {
        const result = await attempt()
        this.#outages.note(0, undefined)
        return result
      } catch (error) {
        this.#outages.note(0, toError(error))
        await sleep(this.#options.clock, STORE_RETRY_MS, { signal, ref: false }).catch(() => {})
      }
    }
    return undefined
  }

  #enter (reader: AbortController): void {
    if (reader.signal.aborted) return
    // An aborted reader whose iterator is never called again must leave as well.
    reader.signal.addEventListener('abort', () => this.#leave(reader))
    this.#open.add(reader)
    if (this.#open.size > 1) return
    const { notifier, clock } = this.#options
    const poll = clock.setInterval(() => this.#notify(undefined), POLL_MS).unref()
    const stopListening = notifier.listen(partition => this.#notify(partition))
    this.#stop = () => {
      clock.clearInterval(poll)
      stopListening()
    }
  }

  #leave (reader: AbortController): void {
    this.#open.delete(reader)
    if (this.#open.size > 0) return
    this.#stop()
    this.#tails = []
  }

  async #tail (index: number): Promise<Tail> {
    const { store } = this.#options
    const tail = this.#tails[index] ??= store.state(index)
      .then(({ last = START.id }) => new Tail((after, count) => store.range(index, after, count), last))
    try {
      return await tail
    } catch (error) {
      if (this.#tails[index] === tail) delete this.#tails[index]
      throw error
    }
  }

  #notify (partition: number | undefined): void {
    this.#changes++
    for (const index of partition === undefined ? this.#indices : [partition]) {
      this.#tails[index]?.then(tail => tail.touch(), () => {})
    }
    for (const wake of this.#waiting) wake()
  }

  /** Resolves at the first notification after `changes`, or when the signal aborts. */
  async #changeAfter (changes: number, signal: AbortSignal): Promise<void> {
    if (this.#changes !== changes || signal.aborted) return
    await new Promise<void>(resolve => {
      const wake = () => {
        this.#waiting.delete(wake)
        signal.removeEventListener('abort', wake)
        resolve()
      }
      this.#waiting.add(wake)
      signal.addEventListener('abort', wake)
    })
  }
}

/**
 * Advances the position past a stored event. Returns the event for the reader; undefined where it cannot be decoded.
 */
function advance<T> (
  positions: Position[], index: number, stored: StoredMessage, gaps: Set<number>
): StreamEvent<T> | undefined {
  const before = positions[index]
  positions[index] = positionOf(stored)
  if (before?.n !== undefined && stored.n !== before.n + 1) gaps.add(index)
  try {
    const event = decodeEvent<T>(stored, cursorOf(positions))
    return gaps.delete(index) ? { ...event, gap: true } : event
  } catch {
    gaps.add(index)
    return undefined
  }
}
