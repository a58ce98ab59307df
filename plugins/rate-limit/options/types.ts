import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import type { Duration } from '../../shared/plugin/duration.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import type { RedisClient } from '../../shared/redis/client.js'
import type { Algorithm } from '../policy.js'
import type { CustomStoreConstructor } from './custom-store.js'

/** The hook in which a limit decides. */
export type RateLimitHook = 'onRequest' | 'preParsing' | 'preValidation' | 'preHandler'

/** A value, or a function that returns it for a request. */
export type PerRequest<T> = T | ((request: FastifyRequest, key: string) => MaybePromise<T>)

export type KeyGenerator = (request: FastifyRequest) => MaybePromise<string | number | bigint>

/** Keys, addresses and CIDR ranges; or a function. */
export type AccessList = readonly string[] | ((request: FastifyRequest, key: string) => MaybePromise<boolean>)

/** One of several limits that apply at once. */
export interface LimitOptions {
  max: number
  timeWindow: Duration
  /** The name in the `RateLimit` fields. @default the window's length, such as '1m' */
  name?: string | undefined
  /** How many units may come at once. Only with `gcra`. @default max */
  burst?: number | undefined
}

/** Which requests count in the end, or what each of them costs. */
export type CountByOutcome =
  'failures' | 'successes' | ((request: FastifyRequest, reply: FastifyReply) => MaybePromise<number>)

/** The limits of a plan; `false`: none. */
export type PlanLimits = readonly LimitOptions[] | false

/** How long refusals last: `base`, twice `base`, four times `base`, … `cap` at most. */
export interface ExponentialBackoffOptions {
  base: Duration
  cap: Duration
  /** How long after it has ended a further refusal still doubles it. @default the longest window */
  memory?: Duration | undefined
}

/** The options of a policy, for routes and for `fastify.rateLimiter`. */
export interface PolicyOptions {
  /** Several limits that apply at once, in place of `max` and `timeWindow`: all or nothing, in one round trip. */
  limits?: readonly LimitOptions[] | undefined
  /**
   * The algorithm that counts. `sliding-log` is exact.
   *
   * @default 'sliding-log'
   * @see [algorithms](docs/plugins/rate-limit.md#algorithms)
   */
  algorithm?: Algorithm | undefined
  /** How many units may come at once. Only with `gcra`. @default max */
  burst?: number | undefined
  /**
   * Whether a refused request takes its cost too, so that a client that keeps retrying stays refused.
   *
   * @default false
   */
  countRejected?: boolean | undefined
  /** Whether each refusal refuses for a whole window more. @default false */
  continueExceeding?: boolean | undefined
  /**
   * Whether each refusal refuses for a window, then two, then four, and so on. With `{ base, cap, memory }` the first
   * refusal lasts `base`, no refusal lasts longer than `cap`, and `memory` after one has ended (default: the longest
   * window) the next one lasts `base` again.
   *
   * @default false
   */
  exponentialBackoff?: boolean | ExponentialBackoffOptions | undefined
  /** After how many refusals in a window the key is banned and gets 403; -1 means never. @default -1 */
  ban?: number | undefined
  /** How long a ban lasts. Requests do not lengthen it. @default the longest window */
  banDuration?: Duration | undefined
}

/** The decision, as `errorResponseBuilder` receives it. */
export interface ErrorResponseContext {
  statusCode: number
  /** Whether the key is banned. */
  ban: boolean
  max: number
  ttl: Milliseconds
  /** The time to wait, as text: '1 minute'. */
  after: string
}

/** The options of a route. An option that is left out has the value of the plugin's options. */
export interface RouteRateLimitOptions extends Omit<PolicyOptions, 'limits'> {
  /**
   * Several limits that apply at once, in place of `max` and `timeWindow`: all or nothing, in one round trip. A
   * function returns those of the caller, or `false` for none; a `max` of `Infinity` is no limit. A caller whose limits
   * change keeps what was used.
   *
   * @default none
   */
  limits?: PerRequest<PlanLimits> | undefined
  /**
   * The limits of each plan, in place of `limits`; `false` for a plan without limits. What was used is kept when a
   * caller changes the plan.
   *
   * @example
   * { plans: { free: [{ max: 100, timeWindow: '1 day' }], pro: [{ max: 9000, timeWindow: '1 day' }], own: false } }
   *
   * @default none
   */
  plans?: Readonly<Record<string, PlanLimits>> | undefined
  /**
   * Returns the name of the caller's plan among `plans`, or `false` for a caller without limits. Its responses have no
   * header fields of a limit. A function of the plugin serves the `plans` of all routes.
   *
   * @default none
   */
  plan?: ((request: FastifyRequest, key: string) => MaybePromise<string | false>) | undefined
  /**
   * How many units of cost a key may use in any `timeWindow`; 0 refuses all. At most 10,000,000, with `sliding-log` at
   * most `maxLogUnits`. A function may return `Infinity` for a caller without limits.
   *
   * @default 1000
   */
  max?: PerRequest<number> | undefined
  /** The length of the window, wherever it starts. @default '1 minute' */
  timeWindow?: PerRequest<Duration> | undefined
  /** The cost of a request: a whole number, 0 for nothing. @default 1 */
  cost?: (number | ((request: FastifyRequest) => MaybePromise<number>)) | undefined
  /**
   * Which requests count in the end: those with a status from 400 on, those with a lower one, or what a function
   * returns; in any case those whose client left before the response. The cost is taken before the handler runs and
   * corrected after the response, so that parallel requests cannot exceed the limit.
   *
   * @default all, with their cost
   */
  count?: CountByOutcome | undefined
  /** The hook in which the request is limited. @default 'onRequest' */
  hook?: RateLimitHook | undefined
  /**
   * Whether Redis is asked when the request arrives, and its reply awaited in `hook`. Registered before a session, the
   * two share a round trip. Requests that another hook refuses in between are counted too, and functions among the
   * options do not see what other hooks set. A route may turn it off.
   *
   * @default false
   * @see [one round trip with a session](docs/plugins/rate-limit.md#one-round-trip-with-a-session)
   */
  early?: boolean | undefined
  /**
   * Returns the key that the request counts for. Any result but a string, a finite number or a bigint, such as
   * `undefined` for a caller without an id, is an error (`FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`): return the
   * address for such callers. All callers for whom it returns `''` share a limit.
   *
   * @default the client's address
   */
  keyGenerator?: KeyGenerator | undefined
  /**
   * The length of the prefix by which IPv6 addresses are one client. IPv4-mapped addresses are IPv4. A port that a
   * proxy adds in `X-Forwarded-For` does not count.
   *
   * @default 64
   */
  ipv6Subnet?: number | undefined
  /**
   * Clients that are neither limited nor counted. Addresses are compared with the client's; with a `keyGenerator`, with
   * the key. An invalid range, such as `10.0.0.0/33`, is an error.
   */
  allowList?: AccessList | null | undefined
  /** Clients that always get 403. */
  denyList?: AccessList | null | undefined
  /**
   * The name of a group: routes of one group share one count. As an option of the plugin, all its routes share it
   * unless they name another one.
   */
  groupId?: string | undefined
  /** Whether requests are decided, counted and reported in headers and events, but never refused. @default false */
  dryRun?: boolean | undefined
  /** Returns the error or the body of a refused request. @default an error 429 or 403 */
  errorResponseBuilder?: ((request: FastifyRequest, context: ErrorResponseContext) => MaybePromise<object>) | undefined
  /** Called for each request that passes. It is not awaited; a failure is logged. */
  onExceeding?: ((request: FastifyRequest, key: string) => unknown) | undefined
  /** Called for each request that is refused, like `onExceeding`. */
  onExceeded?: ((request: FastifyRequest, key: string) => unknown) | undefined
  /** Called for each request that is refused because its key is banned, like `onExceeding`. */
  onBanReach?: ((request: FastifyRequest, key: string) => unknown) | undefined
  /**
   * Whether headers are named `RateLimit-Limit`, `-Remaining` and `-Reset` in place of `X-RateLimit-*`.
   *
   * @default false
   */
  enableDraftSpec?: boolean | undefined
  /** The headers of a refused response, by name; `false` leaves one out. @default all */
  addHeaders?: Record<string, boolean> | undefined
  /** The headers of a response that is not refused, by name; `false` leaves one out. @default all */
  addHeadersOnExceeding?: Record<string, boolean> | undefined
  /** As in `@fastify/rate-limit`: `true` is `onStoreError: 'open'`; `false` answers with the store's error. */
  skipOnError?: boolean | undefined
  /**
   * The behavior while Redis is unavailable: with `'local'` this process decides on its own; with `'open'` requests
   * pass uncounted; with `'closed'` they get 503.
   *
   * @default 'local'
   * @see [when Redis fails](docs/plugins/rate-limit.md#when-redis-fails)
   */
  onStoreError?: Exclude<OnStoreError, 'throw'> | undefined
}

export interface RateLimitPluginOptions extends RouteRateLimitOptions {
  /** Whether routes without `config.rateLimit` are limited. @default true */
  global?: boolean | undefined
  /** The client of the store; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** A part of all keys, which keeps the counts of two apps on one Redis apart. */
  nameSpace?: string | undefined
  /** A store with the interface of `@fastify/rate-limit`: one limit, no cost, refund or reset. */
  store?: CustomStoreConstructor | undefined
  /**
   * How many keys the memory store keeps, of all routes together. The least recently used one is evicted.
   *
   * @default 5000
   */
  cache?: number | undefined
  /** How long a decision waits for Redis. @default 150 ms; over HTTP 1000 ms */
  timeout?: Duration | undefined
  /**
   * The largest `max` with the algorithm `sliding-log`, which stores the time of each unit: 7 bytes, and work for Redis
   * when many are taken or given back at once. For a larger `max` use `sliding-counter`. It has no effect with a custom
   * `store`.
   *
   * @default 100_000
   */
  maxLogUnits?: number | undefined
  /** How many instances share a limit while each of them decides on its own. @default 1 */
  instances?: number | undefined
  /**
   * The clock for windows, bans and deadlines.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

/** The behavior while the store is unavailable. */
export type OnStoreError = 'local' | 'open' | 'closed' | 'throw'
