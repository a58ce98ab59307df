import { checkedPort, isRedisClient, type RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import {
  boolean, clock, duration, fraction, integer, option, redisClient, redisTimeout, required, withDefault
} from '../shared/plugin/option-kinds.js'
import { refuseOption, resolveOptions, type OptionTable, type Resolved } from '../shared/plugin/option-table.js'

/** How one lock is acquired. An option that is left out has the value of the plugin's options. */
export interface LockOptions {
  /**
   * How long the lock is held after it was acquired or last extended. It blocks others for so long if its holder
   * crashes.
   *
   * @default '10s'
   */
  ttl?: Duration | undefined
  /** How long to wait for the lock; `0` fails at once. @default '10s' */
  wait?: Duration | undefined
  /**
   * The longest delay until a waiting caller tries again if no message says that the lock is free (at random from half
   * of it).
   *
   * @default 250 ms
   */
  retryDelay?: Duration | undefined
  /** Whether the lock is extended automatically, each third of `ttl`. @default true for using, false for acquire */
  extend?: boolean | undefined
  /** Stops the wait when it is aborted. It does not stop the work under the lock. */
  signal?: AbortSignal | undefined
}

/** How a job runs once in each period. An option that is left out has the value of the plugin's options. */
export interface OnceOptions extends Omit<LockOptions, 'wait'> {
  /**
   * The length of a period, in which the job runs once. Periods are counted from the epoch: those of `'1 day'` begin at
   * midnight UTC.
   */
  every: Duration
  /**
   * Identifies the run in place of the number of the period, such as the date of a job that runs each day.
   *
   * @default the number of the period
   */
  tick?: string | number | undefined
  /** How long to wait while another caller runs the job; `0` returns `'running'` at once. @default 0 */
  wait?: Duration | undefined
}

/** Options of the `lock` plugin. */
export interface LockPluginOptions extends Omit<LockOptions, 'signal'> {
  /** The client of the store; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** Clients of 3 or more independent servers, in place of `redis`. The majority decides who holds the lock. */
  nodes?: readonly RedisClient[] | undefined
  /**
   * How long one operation on the store may take. While Redis is late but available, it may take longer.
   *
   * @default 150 ms; over HTTP 1000 ms
   * @see [an outage and a stall](docs/plugins/redis.md#how-an-outage-differs-from-a-stall)
   */
  timeout?: Duration | undefined
  /**
   * Among how many instances the places of `config.concurrency` are divided while Redis is unavailable and each
   * instance decides by itself.
   *
   * @default 1
   */
  instances?: number | undefined
  /** The fraction of `ttl` by which clocks may drift: a lock counts as lost so much before it expires. @default 0.01 */
  clockDrift?: number | undefined
  /**
   * The clock for TTLs, extensions, waits and deadlines. Redis expires keys by its own clock.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

const DAY = 86_400_000

const COMMON_OPTIONS = {
  ttl: duration('10s', { min: 100, max: DAY }),
  wait: duration('10s', { max: DAY }),
  retryDelay: duration(250, { min: 10, max: 60_000 }),
  extend: withDefault(boolean(), '`true` for `using`, `false` for `acquire`')
} satisfies OptionTable<Omit<LockOptions, 'signal'>>

export const LOCK_OPTIONS = {
  ...COMMON_OPTIONS,
  signal: option({
    type: '`AbortSignal`', allowed: 'an AbortSignal', parse: given => given instanceof AbortSignal ? given : undefined
  })
} satisfies OptionTable<LockOptions>

export const ONCE_OPTIONS = {
  ...LOCK_OPTIONS,
  wait: duration(0, { max: DAY }),
  every: required(duration(undefined, { min: 1000, max: 366 * DAY })),
  tick: option({
    type: 'string or number',
    allowed: 'a string that is not empty, or a whole number',
    fallbackText: 'the number of the period',
    parse: given => isTick(given) ? given : undefined
  })
} satisfies OptionTable<OnceOptions>

export const LOCK_PLUGIN_OPTIONS = {
  ...COMMON_OPTIONS,
  redis: redisClient(),
  nodes: option({
    type: 'clients of 3 or more servers',
    allowed: 'clients of 3 or more servers, each once',
    parse: given => areNodes(given) ? given : undefined
  }),
  timeout: redisTimeout(),
  instances: integer(1, { min: 1 }),
  clockDrift: fraction(0.01, 0.5),
  clock: clock()
} satisfies OptionTable<LockPluginOptions>

export type ResolvedLockOptions = Resolved<typeof LOCK_OPTIONS>
type ResolvedOnceOptions = Resolved<typeof ONCE_OPTIONS>
export type ResolvedLockPluginOptions = Resolved<typeof LOCK_PLUGIN_OPTIONS> & ResolvedLockOptions

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
export function resolvePluginOptions (given: LockPluginOptions): ResolvedLockPluginOptions {
  if (given.nodes !== undefined && given.redis !== undefined) {
    refuseOption('lock', given, 'redis', 'left out beside "nodes"')
  }
  const options = resolveOptions('lock', LOCK_PLUGIN_OPTIONS, given)
  for (const node of options.nodes ?? []) checkedPort('lock', 'nodes', node)
  return { ...options, signal: undefined }
}

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
export function resolveLockOptions (given: LockOptions, defaults: ResolvedLockOptions): ResolvedLockOptions {
  return resolveOptions('lock', LOCK_OPTIONS, given, defaults)
}

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
export function resolveOnceOptions (
  given: OnceOptions, { ttl, retryDelay, extend }: ResolvedLockOptions
): ResolvedOnceOptions {
  return resolveOptions('lock', ONCE_OPTIONS, given, { ttl, retryDelay, extend })
}

function isTick (tick: unknown): tick is string | number {
  return typeof tick === 'number' ? Number.isSafeInteger(tick) : typeof tick === 'string' && tick !== ''
}

function areNodes (nodes: unknown): nodes is readonly RedisClient[] {
  return Array.isArray(nodes) && nodes.length >= 3 && nodes.every(isRedisClient) && new Set(nodes).size === nodes.length
}
