import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../../shared/plugin/duration.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { isPromise, recover, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { readOptions } from '../../shared/plugin/option-reader.js'
import { InvalidLastEventIdError } from '../errors.js'
import type { Subscriptions } from '../pubsub/subscriptions.js'
import { formatEvent } from './event-format.js'
import { watchSession } from './session-end.js'
import { HIGH_WATER_MARK, SseStream } from './sse-stream.js'
import { InvalidCursorError } from '../stream/errors.js'
import { startOf } from '../stream/reader.js'
import type { EventStream, StreamEvent } from '../stream/types.js'

/** What events can be read from: a stream. */
export type SseSource<T> = Pick<EventStream<T>, 'read'>

/** What is known of an event besides its data. */
export interface SseMeta {
  /** Of a stream's event its cursor. */
  id?: string
  /** Of a stream's event. */
  key?: string | undefined
  /** Of a stream's event: when it was appended, in milliseconds since the epoch. */
  appendedAt?: number
  /** Of a stream's event: those before it were trimmed. */
  gap?: true
  /** Of a message the name it was published to. */
  channel?: string
}

export interface SseOptions<T> {
  /** The type that the browser's listener is added for, or a function that says it. @default none: `message` */
  event?: string | ((data: T, meta: SseMeta) => MaybePromise<string | undefined>)
  /** What the browser gets in place of the data; undefined leaves the event out. It may be async: events keep their order. */
  map?: ((data: T, meta: SseMeta) => unknown) | undefined
  /** After how long without an event a comment is sent, so that nobody on the way takes the connection for dead. @default '15s' */
  heartbeat?: Duration | undefined
  /** How long the browser waits before it connects again. @default the browser's, about 3 s */
  retry?: Duration | undefined
  /** Bytes that may wait for a client; one for whom more wait when the next event comes is disconnected. At least 16 KiB. @default 1 MiB */
  maxBuffer?: number | undefined
  /** Whether the response ends with the session that the request has (session plugin). @default true */
  session?: boolean | undefined
}

interface ResolvedSseOptions<T> {
  event: SseOptions<T>['event']
  map: SseOptions<T>['map']
  heartbeat: number
  retry: number | undefined
  maxBuffer: number
  session: boolean
}

const HEADERS = {
  'content-type': 'text/event-stream',
  // Proxies must neither keep it nor wait until they have enough to compress.
  'cache-control': 'no-store, no-transform',
  'x-accel-buffering': 'no'
}

/** How many events may wait for an async `map` or `event`. */
const MAX_WAITING = 1000

/** The whole takes less than a second from the end of the session. */
const SESSION_FINISH_MS = 500

const CURSOR = /^[\x21-\x7e]{1,4096}$/

/** Answers requests with server-sent events, and ends these answers. */
export class SseReplies {
  readonly #hub: Subscriptions
  readonly #clock: Clock
  readonly #open = new Set<SseStream>()
  #isClosed = false

  constructor (hub: Subscriptions, clock: Clock) {
    this.#hub = hub
    this.#clock = clock
  }

  async send<T> (request: FastifyRequest, reply: FastifyReply, source: SseSource<T> | string, given: SseOptions<T> = {}): Promise<void> {
    const options = resolveSseOptions(given)
    const after = lastEventIdOf(request)
    // Who asks for the head alone would never end a body.
    if (request.method === 'HEAD') {
      reply.headers(HEADERS).send()
      return await new Promise(resolve => { reply.then(resolve, () => resolve()) })
    }
    const stream = new SseStream({
      ...options,
      clock: this.#clock,
      onSlow: () => request.log.info({ plugin: 'events', buffered: stream.readableLength }, 'events: a client is too slow, and was disconnected'),
      cut: () => { if (!reply.raw.writableFinished) reply.raw.destroy() }
    })
    // Before any event, and at once, as the head goes with the first byte.
    stream.write(options.retry === undefined ? ': \n\n' : `retry: ${options.retry}\n\n`)
    const closed = new Promise<void>(resolve => stream.once('close', resolve))
    const write = (data: T, meta: SseMeta) => writeEvent(stream, options, data, meta, request)
    const stop = typeof source === 'string'
      ? await this.#follow(source, stream, write, request)
      : await readInto(source, after, stream, write, request)
    closed.then(stop)
    if (options.session) closed.then(watchSession(request, options.heartbeat, () => stream.finish(SESSION_FINISH_MS)))
    this.#answer(reply, stream)
    await closed
  }

  /** Ends all answers. */
  close (): void {
    this.#isClosed = true
    for (const stream of this.#open) stream.finish()
  }

  #answer (reply: FastifyReply, stream: SseStream): void {
    this.#open.add(stream)
    stream.once('close', () => this.#open.delete(stream))
    // Also where a hook put another body in its place.
    reply.raw.once('close', () => stream.destroy())
    stream.begin()
    if (this.#isClosed) stream.finish()
    if (reply.raw.destroyed) stream.destroy()
    else reply.headers(HEADERS).send(stream)
  }

  async #follow<T> (pattern: string, stream: SseStream, write: Write<T>, request: FastifyRequest): Promise<() => void> {
    const inOrder = createLine(() => {
      if (!stream.isOver) request.log.warn({ plugin: 'events' }, `events: a response was ended, as ${MAX_WAITING} events wait for \`map\` or \`event\``)
      stream.finish()
    })
    const end = await this.#hub.subscribe(pattern, (data, channel) => inOrder(() => write(data as T, { channel })), {
      onGap: gap => inOrder(() => stream.write(formatEvent({ event: 'gap', data: JSON.stringify(gap) })))
    })
    return () => { end().catch(() => {}) }
  }
}

type Write<T> = (data: T, meta: SseMeta) => MaybePromise<boolean>

/** Runs steps one after another; each one at once where none is before it. A step never fails. */
function createLine (onFull: () => void): (step: () => MaybePromise<unknown>) => void {
  let last: Promise<unknown> | undefined
  let waiting = 0
  return step => {
    if (waiting >= MAX_WAITING) return onFull()
    const done = last === undefined ? step() : last.then(step)
    if (!isPromise(done)) return
    waiting++
    const settled: Promise<unknown> = done.then(() => {
      waiting--
      if (last === settled) last = undefined
    })
    last = settled
  }
}

/** Reads no faster than the client takes. Resolves when it is known from where, as each event after the head of the response is due. */
async function readInto<T> (
  source: SseSource<T>, after: string | undefined, stream: SseStream, write: Write<T>, request: FastifyRequest
): Promise<() => void> {
  const over = new AbortController()
  const events = read(source, after, over.signal)
  await startOf(events)
  const pump = async () => {
    for await (const { data, ...meta } of events) {
      if (meta.gap) stream.write(formatEvent({ event: 'gap', data: '{}' }))
      const written = write(data, meta)
      if (!(isPromise(written) ? await written : written)) await stream.room()
      if (stream.isOver) return
    }
  }
  pump().catch((error: unknown) => {
    if (!over.signal.aborted) request.log.warn({ plugin: 'events', reason: reasonOf(error) }, 'events: the stream of an answer failed')
  }).finally(() => stream.finish())
  return () => over.abort()
}

/** @throws `FST_REDIS_SUITE_EVENTS_INVALID_LAST_EVENT_ID`, which does not tell the client the stream's name */
function read<T> (source: SseSource<T>, after: string | undefined, signal: AbortSignal): AsyncIterable<StreamEvent<T>> {
  try {
    return source.read({ signal, ...after !== undefined && { after } })
  } catch (error) {
    throw error instanceof InvalidCursorError ? new InvalidLastEventIdError() : error
  }
}

/** @returns whether there is room for more: at once, unless `map` or `event` is async */
function writeEvent<T> (stream: SseStream, { event, map }: ResolvedSseOptions<T>, data: T, meta: SseMeta, request: FastifyRequest): MaybePromise<boolean> {
  const write = (mapped: unknown): MaybePromise<boolean> => {
    const text: string | undefined = mapped === undefined ? undefined : JSON.stringify(mapped)
    if (text === undefined) return true
    return whenReady(typeof event === 'function' ? event(data, meta) : event, type => stream.write(formatEvent({ id: meta.id, event: type, data: text })))
  }
  return recover(() => map === undefined ? write(data) : whenReady(map(data, meta), write), error => {
    request.log.error({ plugin: 'events', reason: reasonOf(error), channel: meta.channel, id: meta.id }, 'events: an event was left out, as `map` or `event` failed')
    return true
  })
}

/** What the browser saw last; polyfills that cannot send the header say it in the query. */
function lastEventIdOf (request: FastifyRequest): string | undefined {
  const query: unknown = request.query
  const asked: unknown = request.headers['last-event-id'] ??
    (typeof query === 'object' && query !== null && 'lastEventId' in query ? query.lastEventId : undefined)
  if (asked === undefined || asked === '') return undefined
  if (typeof asked !== 'string' || !CURSOR.test(asked)) throw new InvalidLastEventIdError()
  return asked
}

function resolveSseOptions<T> (options: SseOptions<T>): ResolvedSseOptions<T> {
  const read = readOptions('events', options)
  read.onlyKnown(['event', 'map', 'heartbeat', 'retry', 'maxBuffer', 'session'])
  const { event, map, retry } = options
  if (event !== undefined && typeof event !== 'string' && typeof event !== 'function') read.fail('event', 'a string, or a function that says it')
  if (map !== undefined && typeof map !== 'function') read.fail('map', 'a function')
  return {
    event,
    map,
    heartbeat: read.duration('heartbeat', '15s', { min: 10, max: MAX_TIMER_MS }),
    retry: retry === undefined ? undefined : read.duration('retry', 0, { max: MAX_TIMER_MS }),
    maxBuffer: read.integer('maxBuffer', 1024 * 1024, { min: HIGH_WATER_MARK }),
    session: read.boolean('session', true)
  }
}
