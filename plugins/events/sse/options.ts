import { MAX_TIMER_MS, type Duration } from '../../shared/plugin/duration.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { boolean, bytes, callable, duration, option, withDefault } from '../../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../../shared/plugin/option-table.js'
import type { Bytes } from '../../shared/plugin/units.js'
import { HIGH_WATER_MARK } from './sse-stream.js'

/** The fields of an event besides its data. */
export interface SseMeta {
  /** The event's cursor. Only for a stream. */
  id?: string
  /** Only for a stream. */
  key?: string | undefined
  /** When the event was appended, in milliseconds since the epoch. Only for a stream. */
  appendedAt?: number
  /** Events before this one were trimmed. Only for a stream. */
  gap?: true
  /** The channel that the message was published to. Only for a channel. */
  channel?: string
}

export interface SseOptions<T> {
  /**
   * The event's type, for which the browser adds a listener, or a function that returns it, sync or async.
   *
   * @default `message`
   */
  event?: string | ((data: T, meta: SseMeta) => MaybePromise<string | undefined>) | undefined
  /**
   * Returns what the browser receives, as JSON, in place of the data; `undefined` leaves the event out. `map` and
   * `event` may be async: events keep their order, and the response ends if 1,000 wait. A failure is logged, and the
   * event is left out. `meta` has `channel`, or `id`, `key` and `appendedAt`.
   *
   * @default the data
   */
  map?: ((data: T, meta: SseMeta) => unknown) | undefined
  /** How long the connection may be idle before a comment is sent, so that proxies keep it open. @default '15s' */
  heartbeat?: Duration | undefined
  /** How long the browser waits before it reconnects. @default the browser's, about 3 s */
  retry?: Duration | undefined
  /**
   * How many bytes may wait for a slow client, besides one event. A client for which more wait is disconnected.
   *
   * @default 1 MiB
   */
  maxBuffer?: Bytes | undefined
  /**
   * Whether the response ends with the session of its request. `config.session: false` of the route turns it off as
   * well.
   *
   * @default true
   */
  session?: boolean | undefined
}

export const SSE_OPTIONS = {
  event: option<NonNullable<SseOptions<unknown>['event']>>({
    type: 'string or `(data, meta) => string`',
    allowed: 'a string, or a function that returns one',
    fallbackText: '`message`',
    parse: given =>
      typeof given === 'string' || typeof given === 'function' ? given as SseOptions<unknown>['event'] : undefined
  }),
  map: callable('`(data, meta) => value`', 'a function', 'the data'),
  heartbeat: duration('15s', { min: 10, max: MAX_TIMER_MS }),
  retry: withDefault(duration(undefined, { max: MAX_TIMER_MS }), "the browser's, about 3 s"),
  maxBuffer: bytes(1024 * 1024, { min: HIGH_WATER_MARK }),
  session: boolean(true)
} satisfies OptionTable<SseOptions<unknown>>

export type ResolvedSseOptions = Resolved<typeof SSE_OPTIONS>

/** @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION` */
export function resolveSseOptions (given: object): ResolvedSseOptions {
  return resolveOptions('events', SSE_OPTIONS, given)
}
