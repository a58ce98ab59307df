import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { isPromise, recover, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { InvalidLastEventIdError } from '../errors.js'
import type { Subscriptions } from '../pubsub/subscriptions.js'
import { InvalidCursorError } from '../stream/errors.js'
import { startOf } from '../stream/reader.js'
import type { EventStream, StreamEvent } from '../stream/types.js'
import { resolveSseOptions, type ResolvedSseOptions, type SseMeta, type SseOptions } from './options.js'
import { formatEvent, SseStream } from './sse-stream.js'

/** A stream, as the source of a response. */
export type SseSource<T> = Pick<EventStream<T>, 'read'>

const HEADERS = {
  'content-type': 'text/event-stream',
  // Proxies must neither store nor compress the response: both would delay its events.
  'cache-control': 'no-store, no-transform',
  'x-accel-buffering': 'no'
}

/** How many events of one response may wait for an async `map` or `event`. */
const MAX_QUEUED_EVENTS = 1000

/** How long a client may take to read buffered events after its session has ended. */
const SESSION_FINISH_MS = 500

const CURSOR = /^[\x21-\x7e]{1,4096}$/

/** `fastify.sessions.watch` of the session plugin. Plugins do not import one another. */
type Watch = (request: FastifyRequest, onEnd: () => void, options: { interval: Milliseconds }) => () => void

/** Sends responses with server-sent events, and ends them when the app closes. */
export class SseReplies {
  readonly #subscriptions: Subscriptions
  readonly #clock: Clock
  readonly #open = new Set<SseStream>()
  #isClosed = false

  constructor (subscriptions: Subscriptions, clock: Clock) {
    this.#subscriptions = subscriptions
    this.#clock = clock
  }

  async send<T> (
    request: FastifyRequest, reply: FastifyReply, source: SseSource<T> | string, given: SseOptions<T> = {}
  ): Promise<void> {
    const options = resolveSseOptions(given)
    const after = lastEventIdOf(request)
    // A HEAD request has no body that would end.
    if (request.method === 'HEAD') {
      reply.headers(HEADERS).send()
      return await new Promise(resolve => { reply.then(resolve, () => resolve()) })
    }
    const stream = new SseStream({
      ...options,
      clock: this.#clock,
      onSlow: () =>
        request.log.info(
          { plugin: 'events', buffered: stream.readableLength }, 'events: a client is too slow, and was disconnected'
        ),
      cut: () => { if (!reply.raw.writableFinished) reply.raw.destroy() }
    })
    // Node.js sends the head of the response with the first bytes of its body.
    stream.write(options.retry === undefined ? ': \n\n' : `retry: ${options.retry}\n\n`)
    const closed = new Promise<void>(resolve => stream.once('close', resolve))
    const write = (data: unknown, meta: SseMeta) => writeEvent(stream, options, data, meta, request)
    const stop = typeof source === 'string'
      ? await this.#writeMessages(source, stream, write, request)
      : await writeStream(source, after, stream, write, request)
    closed.then(stop)
    if (options.session) closed.then(watchSession(request, options.heartbeat, () => stream.finish(SESSION_FINISH_MS)))
    this.#start(reply, stream)
    await closed
  }

  /** Ends all responses. */
  close (): void {
    this.#isClosed = true
    for (const stream of this.#open) stream.finish()
  }

  #start (reply: FastifyReply, stream: SseStream): void {
    this.#open.add(stream)
    stream.once('close', () => this.#open.delete(stream))
    // A hook may have replaced the body: then Fastify does not destroy the stream.
    reply.raw.once('close', () => stream.destroy())
    stream.begin()
    if (this.#isClosed) stream.finish()
    if (reply.raw.destroyed) stream.destroy()
    else reply.headers(HEADERS).send(stream)
  }

  /** Writes published messages. @returns a function that stops it */
  async #writeMessages (
    pattern: string, stream: SseStream, write: Write, request: FastifyRequest
  ): Promise<() => void> {
    const inOrder = createSequence(() => {
      if (!stream.isOver) {
        request.log.warn(
          { plugin: 'events' },
          `events: a response was ended, as ${MAX_QUEUED_EVENTS} events wait for \`map\` or \`event\``
        )
      }
      stream.finish()
    })
    const onMessage = (data: unknown, channel: string): void => inOrder(() => write(data, { channel }))
    const end = await this.#subscriptions.subscribe(pattern, onMessage, {
      onGap: gap => inOrder(() => stream.write(formatEvent({ event: 'gap', data: JSON.stringify(gap) })))
    })
    return () => { end().catch(() => {}) }
  }
}

type Write = (data: unknown, meta: SseMeta) => MaybePromise<boolean>

/** Returns a function that runs steps one after another: synchronously while none is pending. A step never rejects. */
function createSequence (onFull: () => void): (step: () => MaybePromise<unknown>) => void {
  let last: Promise<unknown> | undefined
  let pending = 0
  return step => {
    if (pending >= MAX_QUEUED_EVENTS) return onFull()
    const done = last === undefined ? step() : last.then(step)
    if (!isPromise(done)) return
    pending++
    const settled: Promise<unknown> = done.then(() => {
      pending--
      if (last === settled) last = undefined
    })
    last = settled
  }
}

/**
 * Writes the events of a stream, no faster than the client reads. Resolves when the start position is known: events
 * that are appended after the head of the response are never missed.
 *
 * @returns a function that stops it
 */
async function writeStream<T> (
  source: SseSource<T>, after: string | undefined, stream: SseStream, write: Write, request: FastifyRequest
): Promise<() => void> {
  const stopped = new AbortController()
  const events = readAfter(source, after, stopped.signal)
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
    if (!stopped.signal.aborted) {
      request.log.warn({ plugin: 'events', reason: reasonOf(error) }, 'events: the stream of a response failed')
    }
  }).finally(() => stream.finish())
  return () => stopped.abort()
}

/** @throws `FST_REDIS_SUITE_EVENTS_INVALID_LAST_EVENT_ID`, which does not reveal the stream's name to the client */
function readAfter<T> (
  source: SseSource<T>, after: string | undefined, signal: AbortSignal
): AsyncIterable<StreamEvent<T>> {
  try {
    return source.read({ signal, ...after !== undefined && { after } })
  } catch (error) {
    throw error instanceof InvalidCursorError ? new InvalidLastEventIdError() : error
  }
}

/** @returns whether there is room for more; a promise only if `map` or `event` is async */
function writeEvent (
  stream: SseStream, { event, map }: ResolvedSseOptions, data: unknown, meta: SseMeta, request: FastifyRequest
): MaybePromise<boolean> {
  const write = (mapped: unknown): MaybePromise<boolean> => {
    const text: string | undefined = mapped === undefined ? undefined : JSON.stringify(mapped)
    if (text === undefined) return true
    const type = typeof event === 'function' ? event(data, meta) : event
    return whenReady(type, type => stream.write(formatEvent({ id: meta.id, event: type, data: text })))
  }
  return recover(() => map === undefined ? write(data) : whenReady(map(data, meta), write), error => {
    const { channel, id } = meta
    request.log.error(
      { plugin: 'events', reason: reasonOf(error), channel, id },
      'events: an event was left out, as `map` or `event` failed'
    )
    return true
  })
}

/**
 * Returns the id of the last event that the browser received. Polyfills that cannot set the header send it in the
 * query.
 */
function lastEventIdOf (request: FastifyRequest): string | undefined {
  const query: unknown = request.query
  const id: unknown = request.headers['last-event-id'] ??
    (typeof query === 'object' && query !== null && 'lastEventId' in query ? query.lastEventId : undefined)
  if (id === undefined || id === '') return undefined
  if (typeof id !== 'string' || !CURSOR.test(id)) throw new InvalidLastEventIdError()
  return id
}

/**
 * Calls a function when the request's session ends.
 *
 * @param interval - how often the session is polled while no message can announce its end
 * @returns a function that ends the watch; undefined without a session plugin
 */
function watchSession (request: FastifyRequest, interval: Milliseconds, onEnd: () => void): (() => void) | undefined {
  const sessions: unknown = Reflect.get(request.server, 'sessions')
  if (typeof sessions !== 'object' || sessions === null || !('watch' in sessions) ||
    typeof sessions.watch !== 'function') {
    return undefined
  }
  return (sessions.watch as Watch)(request, onEnd, { interval })
}
