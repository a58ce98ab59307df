import type { FastifyRequest } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import type { Duration } from '../../shared/plugin/duration.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { RedisClient } from '../../shared/redis/client.js'
import type { Algorithm } from '../policy.js'
import type { CustomStoreConstructor } from './custom-store.js'

export type RateLimitHook = 'onRequest' | 'preParsing' | 'preValidation' | 'preHandler'

/** A value, or a function that says it for a request. */
export type PerRequest<T> = T | ((request: FastifyRequest, key: string) => MaybePromise<T>)

export type KeyGenerator = (request: FastifyRequest) => MaybePromise<string | number | bigint>

/** Keys, addresses and CIDR ranges; or a function. */
export type AccessList = readonly string[] | ((request: FastifyRequest, key: string) => MaybePromise<boolean>)

/** One of several limits that hold at once. */
export interface LimitOptions {
  max: number
  timeWindow: Duration
  /** Its name in the `RateLimit` fields. @default the window's length, such as '1m' */
  name?: string | undefined
  /** With `gcra`: how many units may come at once. @default max */
  burst?: number | undefined
}

/** Lengthens with each refusal: `base`, twice `base`, four times `base`, … `cap` at most. */
export interface PenaltyOptions {
  base: Duration
  cap: Duration
  /** For how long after it a further refusal still doubles it. @default the longest window */
  memory?: Duration | undefined
}

/** What a policy is made of, for routes and for `fastify.rateLimiter`. */
export interface PolicyOptions {
  /** Several limits at once, all or nothing; in place of `max` and `timeWindow`. */
  limits?: readonly LimitOptions[] | undefined
  /** @default 'sliding-log', which is exact */
  algorithm?: Algorithm | undefined
  /** With `gcra`: how many units may come at once. @default max */
  burst?: number | undefined
  /** Count refused requests too, so that a client that keeps hammering stays refused. @default false */
  countRejected?: boolean | undefined
  /** Each refusal refuses for a whole window more. @default false */
  continueExceeding?: boolean | undefined
  /** Each refusal refuses for a window, then two, then four, … @default false */
  exponentialBackoff?: boolean | undefined
  /** As `exponentialBackoff`, by measures of one's own. */
  penalty?: PenaltyOptions | undefined
  /** After this many refusals in a window the answer is 403, for `banDuration`; -1: never. @default -1 */
  ban?: number | undefined
  /** @default the longest window */
  banDuration?: Duration | undefined
}

/** What was decided, as `errorResponseBuilder` is told. */
export interface ErrorResponseContext {
  statusCode: number
  /** Whether the key is banned. */
  ban: boolean
  max: number
  /** Milliseconds. */
  ttl: number
  /** In words: '1 minute'. */
  after: string
}

/** What a route may set for itself; what it leaves out is taken from the plugin's options. */
export interface RouteRateLimitOptions extends PolicyOptions {
  /** How many units of cost a key may use in any one `timeWindow`. @default 1000 */
  max?: PerRequest<number> | undefined
  /** The length of the window, wherever it starts. @default '1 minute' */
  timeWindow?: PerRequest<Duration> | undefined
  /** What a request costs: a whole number, 0 for nothing. @default 1 */
  cost?: (number | ((request: FastifyRequest) => MaybePromise<number>)) | undefined
  /** When in the request's way the decision is made. @default 'onRequest' */
  hook?: RateLimitHook | undefined
  /**
   * Ask when the request comes, and wait for the answer where `hook` stands: one round trip beside that of a session, where this plugin is
   * registered first. What another hook refuses meanwhile is counted too, and functions given here see nothing of other hooks. A route may say
   * `false` where the plugin says `true`. @default false
   */
  early?: boolean | undefined
  /**
   * Returns the key that the request counts for. Anything but a string, a finite number or a bigint is `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`.
   *
   * @default the client's address as Fastify trusts it, without a port, IPv6 by its `ipv6Subnet`
   */
  keyGenerator?: KeyGenerator | undefined
  /** The length of the prefix by which the default key generator takes IPv6 addresses together. @default 64 */
  ipv6Subnet?: number | undefined
  /** Who is not limited. Addresses are compared with the client's; with a `keyGenerator` of your own, with the key. */
  allowList?: AccessList | null | undefined
  /** Who is answered 403 always. */
  denyList?: AccessList | null | undefined
  /** Routes with one group share one count. */
  groupId?: string | undefined
  /** Decide, count, tell in headers, and refuse nobody. @default false */
  dryRun?: boolean | undefined
  /** Makes what a refused request is answered with. */
  errorResponseBuilder?: ((request: FastifyRequest, context: ErrorResponseContext) => MaybePromise<object>) | undefined
  /** Called for each request that passes, and not awaited; what it throws or rejects with is logged. */
  onExceeding?: ((request: FastifyRequest, key: string) => unknown) | undefined
  /** Called for each request that is refused, as `onExceeding` is. */
  onExceeded?: ((request: FastifyRequest, key: string) => unknown) | undefined
  /** Called for each request that is refused as its key is banned, as `onExceeding` is. */
  onBanReach?: ((request: FastifyRequest, key: string) => unknown) | undefined
  /** Names `ratelimit-limit`, `ratelimit-remaining`, `ratelimit-reset` in place of `x-ratelimit-*`. @default false */
  enableDraftSpec?: boolean | undefined
  /** Which headers a refused answer has, by name; all that are not set to `false`. */
  addHeaders?: Record<string, boolean> | undefined
  /** Which headers an answer has that is not refused. */
  addHeadersOnExceeding?: Record<string, boolean> | undefined
  /** How many keys the memory store keeps. @default 5000 */
  cache?: number | undefined
  /** As in `@fastify/rate-limit`. `true`: as `onStoreError: 'open'`; `false`: the store's error is the answer. */
  skipOnError?: boolean | undefined
  /**
   * While Redis cannot be asked: `local`, this process decides by itself; `open`, requests pass uncounted;
   * `closed`, they are answered 503. @default 'local'
   */
  onStoreError?: Exclude<OnStoreError, 'throw'> | undefined
}

export interface RateLimitPluginOptions extends RouteRateLimitOptions {
  /** Limit all routes that do not say otherwise. @default true */
  global?: boolean | undefined
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** Keeps the keys of one app apart from another's on the same Redis. @default none */
  nameSpace?: string | undefined
  /** A store of your own, by the interface of `@fastify/rate-limit`. */
  store?: CustomStoreConstructor | undefined
  /** How long a decision may wait for Redis. @default 150 ms */
  timeout?: Duration | undefined
  /**
   * The largest `max` with the algorithm `sliding-log`, which keeps the time of each unit: 7 bytes, and work for Redis where many are taken or
   * given back at once. For a larger `max` use the algorithm `sliding-counter`. @default 100000
   */
  maxLogUnits?: number | undefined
  /** Among how many instances a limit is divided while each of them decides by itself. @default 1 */
  instances?: number | undefined
  /** The clock for windows, deadlines and memory: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

const POLICY_OPTIONS = ['limits', 'algorithm', 'burst', 'countRejected', 'continueExceeding', 'exponentialBackoff', 'penalty', 'ban', 'banDuration']

/** Of a policy given to `fastify.rateLimiter`. */
export const NAMED_POLICY_OPTIONS = ['name', 'max', 'timeWindow', ...POLICY_OPTIONS]

export const ROUTE_OPTIONS = ['max', 'timeWindow', ...POLICY_OPTIONS, 'cost', 'hook', 'early', 'keyGenerator', 'ipv6Subnet', 'allowList', 'denyList', 'groupId',
  'dryRun', 'errorResponseBuilder', 'onExceeding', 'onExceeded', 'onBanReach', 'enableDraftSpec', 'addHeaders', 'addHeadersOnExceeding', 'cache',
  'skipOnError', 'onStoreError']

export const PLUGIN_OPTIONS = [...ROUTE_OPTIONS, 'global', 'redis', 'nameSpace', 'store', 'timeout', 'maxLogUnits', 'instances', 'clock']

/** What to do while the store cannot be asked. */
export type OnStoreError = 'local' | 'open' | 'closed' | 'throw'
