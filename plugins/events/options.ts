import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/redis/guard.js'
import { readOptions } from '../shared/plugin/option-reader.js'

export interface EventsPluginOptions {
  /** An ioredis client; `false` for events of this process alone. @default fastify.redis, else this process alone */
  redis?: RedisClient | false | null | undefined
  /** How long `publish` may take. @default 150 ms */
  timeout?: Duration | undefined
  /** How long `subscribe` waits until the server has confirmed it. @default 5 s */
  subscribeTimeout?: Duration | undefined
  /** How long closing the app waits for handlers that still run. @default 5 s */
  closeTimeout?: Duration | undefined
  /** The clock for deadlines, heartbeats, leases and back-off: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

export interface ResolvedEventsOptions {
  timeout: number
  subscribeTimeout: number
  closeTimeout: number
  clock: Clock
}

export function resolveEventsOptions (options: EventsPluginOptions): ResolvedEventsOptions {
  const read = readOptions('events', options)
  read.onlyKnown(['redis', 'timeout', 'subscribeTimeout', 'closeTimeout', 'clock'])
  return {
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1, max: MAX_TIMER_MS }),
    subscribeTimeout: read.duration('subscribeTimeout', 5000, { min: 1, max: MAX_TIMER_MS }),
    closeTimeout: read.duration('closeTimeout', 5000, { max: MAX_TIMER_MS }),
    clock: read.clock()
  }
}
