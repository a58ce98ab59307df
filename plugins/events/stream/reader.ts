import type { FastifyBaseLogger } from 'fastify'
import { sleep, type Clock } from '../../shared/plugin/clock.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { cursorOf, positionOf, START, type Position } from './cursor.js'
import { decodeEvent } from './codec.js'
import type { StoredMessage } from '../../shared/work-queue/queue.js'
import type { AppendNotifier, StreamStore } from './store.js'
import { Tail } from './tail.js'
import type { StreamEvent } from './types.js'

export interface ReadersOptions {
  name: string
  store: StreamStore
  notifier: AppendNotifier
  partitions: number
  log: FastifyBaseLogger
  clock: Clock
}

/** New events are told of; what was not heard of is found after this. */
const POLL_MS = 1000
const REST_MS = 200

/** From where iterables read, which is known later. */
const starts = new WeakMap<object, Promise<unknown>>()

/** Resolves when it is known from where events are read, so that each one that is appended from then on is read; or when the store could not say so. */
export async function startOf (events: object): Promise<void> {
  await starts.get(events)?.catch(() => {})
}

/** All readers of a stream in this process: they look for new events together. */
export class Readers {
  readonly #options: ReadersOptions
  readonly #indices: readonly number[]
  readonly #open = new Set<AbortController>()
  readonly #waiting = new Set<() => void>()
  #tails: Array<Promise<Tail>> = []
  #changes = 0
  #isFailing = false
  #isClosed = false
  #stop = (): void => {}

  constructor (options: ReadersOptions) {
    this.#options = options
    this.#indices = Array.from({ length: options.partitions }, (_, index) => index)
  }

  /** @param after - undefined: from now on */
  read<T> (after: Position[] | undefined, signal: AbortSignal | undefined): AsyncIterable<StreamEvent<T>> {
    const start = after === undefined ? this.#now() : Promise.resolve(after)
    // Who reads sees it, and tries again.
    start.catch(() => {})
    const events = { [Symbol.asyncIterator]: () => this.#iterate<T>(start, signal) }
    starts.set(events, start)
    return events
  }

  close (): void {
    this.#isClosed = true
    for (const reader of this.#open) reader.abort()
  }

  async #now (): Promise<Position[]> {
    return await Promise.all(this.#indices.map(async index => {
      const { last, count } = await this.#options.store.state(index)
      return { id: last ?? START.id, n: count }
    }))
  }

  /** By hand, as a generator that waits does not hear that it is to end. */
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
      // Between the call of `read` and a start that is found only now events may have been missed.
      const startLate = async () => {
        const positions = await this.#now()
        for (const index of this.#indices) gaps.add(index)
        return positions
      }
      const positions = await this.#insist(() => start, startLate, signal)
      while (!signal.aborted) {
        const seen = this.#changes
        let isIdle = true
        for (const index of this.#indices) {
          const find = async () => await (await this.#tail(index)).after(positions?.[index]?.id ?? START.id)
          for (const stored of await this.#insist(find, find, signal) ?? []) {
            isIdle = false
            const event = advance<T>(positions ?? [], index, stored, gaps)
            if (event !== undefined && !signal.aborted) yield event
          }
        }
        if (isIdle) await this.#changed(seen, signal)
      }
    } finally {
      reader.abort()
    }
    return undefined
  }

  /** Asks until there is an answer, or undefined when the signal fires. */
  async #insist<R> (first: () => Promise<R>, again: () => Promise<R>, signal: AbortSignal): Promise<R | undefined> {
    for (let ask = first; !signal.aborted; ask = again) {
      try {
        const result = await ask()
        this.#note(undefined)
        return result
      } catch (error) {
        this.#note(error)
        await sleep(this.#options.clock, REST_MS, { signal, ref: false }).catch(() => {})
      }
    }
    return undefined
  }

  #note (error: unknown): void {
    const { name: stream, log } = this.#options
    const isFailing = error !== undefined
    if (isFailing === this.#isFailing) return
    this.#isFailing = isFailing
    if (isFailing) log.warn({ plugin: 'events', stream, reason: reasonOf(error) }, 'events: a stream cannot be read, its readers wait')
    else log.info({ plugin: 'events', stream }, 'events: a stream is read again')
  }

  #enter (reader: AbortController): void {
    if (reader.signal.aborted) return
    // Also where nobody asks for the end of what was aborted.
    reader.signal.addEventListener('abort', () => this.#leave(reader))
    this.#open.add(reader)
    if (this.#open.size > 1) return
    const { notifier, clock } = this.#options
    const poll = clock.setInterval(() => this.#ring(undefined), POLL_MS).unref()
    const stopListening = notifier.listen(partition => this.#ring(partition))
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
    const tail = this.#tails[index] ??= store.state(index).then(({ last = START.id }) => new Tail((after, count) => store.range(index, after, count), last))
    try {
      return await tail
    } catch (error) {
      if (this.#tails[index] === tail) delete this.#tails[index]
      throw error
    }
  }

  #ring (partition: number | undefined): void {
    this.#changes++
    for (const index of partition === undefined ? this.#indices : [partition]) this.#tails[index]?.then(tail => tail.touch(), () => {})
    for (const wake of this.#waiting) wake()
  }

  async #changed (seen: number, signal: AbortSignal): Promise<void> {
    if (this.#changes !== seen || signal.aborted) return
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

/** Moves on, and makes of it what a reader gets: nothing of what cannot be read. */
function advance<T> (positions: Position[], index: number, stored: StoredMessage, gaps: Set<number>): StreamEvent<T> | undefined {
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
