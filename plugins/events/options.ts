import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { boolean, clock, duration, redisClient, redisTimeout } from '../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../shared/plugin/option-table.js'

export interface EventsPluginOptions {
  /**
   * The client that carries the messages; `false` for events of this process alone.
   *
   * @default fastify.redis, else this process alone
   */
  redis?: RedisClient | false | null | undefined
  /** How long `publish` waits for Redis. @default 150 ms; over HTTP 1000 ms */
  timeout?: Duration | undefined
  /**
   * Whether channels can be subscribed to. A client over HTTP needs `false`: `publish` and streams work, and consumers
   * poll each second.
   *
   * @default true
   */
  subscriptions?: boolean | undefined
  /** How long `subscribe` waits for Redis to confirm the subscription. @default '5s' */
  subscribeTimeout?: Duration | undefined
  /** How long closing the app waits for handlers that are still running. @default '5s' */
  closeTimeout?: Duration | undefined
  /**
   * The clock for deadlines, heartbeats, retries and leases, also those of streams.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

export const EVENTS_OPTIONS = {
  redis: redisClient('else this process alone'),
  timeout: redisTimeout(MAX_TIMER_MS),
  subscriptions: boolean(true),
  subscribeTimeout: duration('5s', { min: 1, max: MAX_TIMER_MS }),
  closeTimeout: duration('5s', { max: MAX_TIMER_MS }),
  clock: clock()
} satisfies OptionTable<EventsPluginOptions>

type ResolvedEventsOptions = Resolved<typeof EVENTS_OPTIONS>

export function resolveEventsOptions (options: EventsPluginOptions): ResolvedEventsOptions {
  return resolveOptions('events', EVENTS_OPTIONS, options)
}
