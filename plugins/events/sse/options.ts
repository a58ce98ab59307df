import { MAX_TIMER_MS, type Duration } from '../../shared/plugin/duration.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { boolean, bytes, callback as callbackOption, duration, option } from '../../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../../shared/plugin/option-table.js'
import { HIGH_WATER_MARK } from './sse-stream.js'

/** The metadata of an event: `channel` for a published message, the other fields for an event of a stream. */
export interface SseMeta {
  /** The cursor of the event. */
  id?: string
  key?: string | undefined
  /** When the event was appended: milliseconds since the epoch. */
  appendedAt?: number
  /** Set if events before this one were trimmed. */
  gap?: true
  /** The channel that the message was published to. */
  channel?: string
}

export interface SseOptions<T> {
  /** The type of the event in the browser, or a function that returns it. @default none: `message` */
  event?: string | ((data: T, meta: SseMeta) => MaybePromise<string | undefined>) | undefined
  /** Returns the data for the browser; `undefined` skips the event. It may be async: events keep their order. */
  map?: ((data: T, meta: SseMeta) => unknown) | undefined
  /** How long without an event before a comment is sent, which keeps proxies from closing the connection. @default '15s' */
  heartbeat?: Duration | undefined
  /** How long the browser waits before it reconnects. @default the browser's, about 3 s */
  retry?: Duration | undefined
  /** How many bytes may be buffered for a slow client before it is disconnected, at least 16 KiB. @default 1 MiB */
  maxBuffer?: number | undefined
  /** Whether the response ends with the request's session (session plugin). @default true */
  session?: boolean | undefined
}

export const SSE_OPTIONS = {
  event: option<NonNullable<SseOptions<unknown>['event']>>({
    type: 'string or `(data, meta) => string`',
    allowed: 'a string, or a function that returns one',
    fallbackText: 'none: `message`',
    parse: given => typeof given === 'string' || typeof given === 'function' ? given as SseOptions<unknown>['event'] : undefined
  }),
  map: callbackOption<NonNullable<SseOptions<unknown>['map']>>('`(data, meta) => unknown`'),
  heartbeat: duration('15s', { min: 10, max: MAX_TIMER_MS }),
  retry: { ...duration(undefined, { max: MAX_TIMER_MS }), fallbackText: "the browser's, about 3 s" },
  maxBuffer: bytes(1024 * 1024, { min: HIGH_WATER_MARK }),
  session: boolean(true)
} satisfies OptionTable<SseOptions<unknown>>

export type ResolvedSseOptions = Resolved<typeof SSE_OPTIONS>

/** @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION` */
export function resolveSseOptions (given: object): ResolvedSseOptions {
  return resolveOptions('events', SSE_OPTIONS, given)
}
