import type { FastifyRequest } from 'fastify'
import { parseDuration, type Duration } from '../../shared/plugin/duration.js'
import { invalidOptionError } from '../../shared/plugin/errors.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import {
  boolean, callable, clock, integer, MAX_ENTRIES, oneOf, option, redisClient, redisTimeout, string, unchecked
} from '../../shared/plugin/option-kinds.js'
import {
  checkNames, readOption, readOptions, refuseOption, type OptionTable, type Resolved
} from '../../shared/plugin/option-table.js'
import { KEY_PREFIX, KEY_PREFIX_ALLOWED } from '../../shared/redis/client.js'
import { COST_ALLOWED, invalidResult, isCost } from '../errors.js'
import type { Policy } from '../policy.js'
import type { CustomStoreConstructor } from './custom-store.js'
import { resolveHeaders, type HeaderNames } from './header-names.js'
import { createIpList, ipKey, isInvalidRange } from './ip-address.js'
import {
  allowedMax, DEFAULT_MAX, DEFAULT_MAX_LOG_UNITS, DEFAULT_TIME_WINDOW, LARGEST_MAX, largestMax, POLICY_OPTIONS,
  resolvePolicy, type BoundedPolicyOptions
} from './policy.js'
import type {
  AccessList, KeyGenerator, OnStoreError, PerRequest, RateLimitPluginOptions, RouteRateLimitOptions
} from './types.js'

const accessList = () => option<AccessList>({
  type: 'list of keys, addresses and CIDR ranges, or `(request, key) => boolean`',
  allowed: 'a list of keys, addresses and CIDR ranges, or a function',
  nullIsDefault: true,
  parse: given => isAccessList(given) ? given : undefined
})

export const ROUTE_RATE_LIMIT_OPTIONS = {
  ...POLICY_OPTIONS,
  max: unchecked('integer or `(request, key) => integer`', undefined, DEFAULT_MAX),
  timeWindow: unchecked('duration or `(request, key) => duration`', undefined, DEFAULT_TIME_WINDOW),
  cost: option({
    type: 'integer or `(request) => integer`',
    allowed: 'a whole number from 0',
    fallback: 1,
    nullIsDefault: true,
    parse: parseCost
  }),
  hook: oneOf('onRequest', ['onRequest', 'preParsing', 'preValidation', 'preHandler']),
  early: boolean(false),
  keyGenerator: callable('`(request) => string | number | bigint`', 'a function', "the client's address"),
  ipv6Subnet: integer(64, { max: 128 }),
  allowList: accessList(),
  denyList: accessList(),
  groupId: string(),
  dryRun: boolean(false),
  errorResponseBuilder: callable(
    '`(request, { statusCode, ban, max, ttl, after }) => object`', 'a function', 'an error 429 or 403'
  ),
  onExceeding: callable('`(request, key) => void`'),
  onExceeded: callable('`(request, key) => void`'),
  onBanReach: callable('`(request, key) => void`'),
  enableDraftSpec: boolean(false),
  addHeaders: unchecked('`{ [name]: boolean }`', 'all'),
  addHeadersOnExceeding: unchecked('`{ [name]: boolean }`', 'all'),
  skipOnError: boolean(),
  onStoreError: oneOf('local', ['local', 'open', 'closed'])
} satisfies OptionTable<RouteRateLimitOptions>

/** The plugin's options beside those of routes. */
const OWN_OPTIONS = {
  global: boolean(true),
  redis: redisClient(),
  nameSpace: string(undefined, KEY_PREFIX_ALLOWED, KEY_PREFIX),
  store: option({
    type: 'class',
    allowed: 'a class with incr() and child()',
    parse: given => typeof given === 'function' ? given as CustomStoreConstructor : undefined
  }),
  cache: integer(5000, { min: 1, max: MAX_ENTRIES }),
  timeout: redisTimeout(),
  maxLogUnits: integer(DEFAULT_MAX_LOG_UNITS, { min: 1, max: LARGEST_MAX }),
  instances: integer(1, { min: 1 }),
  clock: clock()
} satisfies OptionTable<Omit<RateLimitPluginOptions, keyof RouteRateLimitOptions>>

export const RATE_LIMIT_OPTIONS = {
  ...ROUTE_RATE_LIMIT_OPTIONS, ...OWN_OPTIONS
} satisfies OptionTable<RateLimitPluginOptions>

type BoundedRouteOptions = RouteRateLimitOptions & Pick<BoundedPolicyOptions, 'maxLogUnits'>

type ListCheck = (request: FastifyRequest, key: string) => MaybePromise<boolean>

type UnchangedOption = 'hook' | 'early' | 'algorithm' | 'groupId' | 'dryRun' | 'cost' | 'errorResponseBuilder' |
  'onExceeding' | 'onExceeded' | 'onBanReach'

/** How a route is limited, complete and checked. */
export interface ResolvedRouteOptions extends Pick<Resolved<typeof ROUTE_RATE_LIMIT_OPTIONS>, UnchangedOption> {
  policyOf: (request: FastifyRequest, key: string) => MaybePromise<Policy>
  keyGenerator: KeyGenerator
  allowList: ListCheck | undefined
  denyList: ListCheck | undefined
  headers: HeaderNames
  onStoreError: OnStoreError
}

export interface ResolvedRateLimitOptions
  extends ResolvedRouteOptions, Omit<Resolved<typeof OWN_OPTIONS>, 'redis' | 'store'> {
  /** `''` without the option. */
  nameSpace: string
}

/** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` */
export function resolvePluginOptions (given: RateLimitPluginOptions): ResolvedRateLimitOptions {
  checkNames('rate-limit', RATE_LIMIT_OPTIONS, given)
  const options = readOptions('rate-limit', OWN_OPTIONS, given)
  const maxLogUnits = maxLogUnitsOf(given)
  return { ...options, nameSpace: options.nameSpace ?? '', ...resolveRoute({ ...given, maxLogUnits }), maxLogUnits }
}

/** A custom store keeps no log. */
function maxLogUnitsOf (plugin: RateLimitPluginOptions): number {
  return plugin.store === undefined
    ? readOption('rate-limit', 'maxLogUnits', OWN_OPTIONS.maxLogUnits, plugin)
    : LARGEST_MAX
}

/** A route's own options override the plugin's. `max` and `limits` exclude each other, so either replaces both. */
export function resolveRouteOptions (
  plugin: RateLimitPluginOptions, route: RouteRateLimitOptions
): ResolvedRouteOptions {
  checkNames('rate-limit', ROUTE_RATE_LIMIT_OPTIONS, route)
  if (route.early === true && plugin.early !== true) {
    refuseOption('rate-limit', route, 'early', 'false, or true where the plugin is given it too')
  }
  const inherited: RouteRateLimitOptions = Object.fromEntries(
    Object.entries(plugin).filter(([name]) => Object.hasOwn(ROUTE_RATE_LIMIT_OPTIONS, name))
  )
  if (route.limits !== undefined) delete inherited.max
  if (route.limits !== undefined) delete inherited.timeWindow
  if (route.max !== undefined || route.timeWindow !== undefined) delete inherited.limits
  // An inherited burst above the route's own max is lowered to it.
  if (typeof route.max === 'number') inherited.burst = burstWithin(inherited.burst, route.max)
  const own = Object.fromEntries(Object.entries(route).filter(([, value]) => value !== undefined))
  return resolveRoute({ ...inherited, ...own, maxLogUnits: maxLogUnitsOf(plugin) })
}

function resolveRoute (given: BoundedRouteOptions): ResolvedRouteOptions {
  const options = readOptions('rate-limit', ROUTE_RATE_LIMIT_OPTIONS, given)
  const {
    ipv6Subnet, hook, early, algorithm, groupId, dryRun, cost, errorResponseBuilder, onExceeding, onExceeded,
    onBanReach
  } = options
  return {
    policyOf: resolvePolicyOf(given),
    algorithm,
    cost,
    keyGenerator: options.keyGenerator ?? (request => ipKey(request, ipv6Subnet)),
    allowList: resolveList('allowList', given, options.allowList),
    denyList: resolveList('denyList', given, options.denyList),
    hook,
    early,
    groupId,
    dryRun,
    headers: resolveHeaders(given, options.enableDraftSpec),
    onStoreError: resolveOnStoreError(given, options),
    errorResponseBuilder,
    onExceeding,
    onExceeded,
    onBanReach
  }
}

function resolveOnStoreError (
  given: RouteRateLimitOptions,
  { skipOnError, onStoreError }: Pick<Resolved<typeof ROUTE_RATE_LIMIT_OPTIONS>, 'skipOnError' | 'onStoreError'>
): OnStoreError {
  if (skipOnError === undefined) return onStoreError
  if (given.onStoreError !== undefined) refuseOption('rate-limit', given, 'skipOnError', 'left out beside onStoreError')
  return skipOnError ? 'open' : 'throw'
}

function isAccessList (list: unknown): list is AccessList {
  return typeof list === 'function' || (Array.isArray(list) && list.every(entry => typeof entry === 'string'))
}

function resolveList (
  name: 'allowList' | 'denyList', given: RouteRateLimitOptions, list: AccessList | undefined
): ListCheck | undefined {
  if (list === undefined || typeof list === 'function') return list
  const invalid = list.find(isInvalidRange)
  if (invalid !== undefined) {
    throw invalidOptionError(
      'rate-limit', `${name}[${list.indexOf(invalid)}]`, invalid,
      'an address with a prefix length of 0 to 32 (IPv4) or 128 (IPv6), such as 10.0.0.0/8'
    )
  }
  const keys = new Set<string>(list)
  const hasAddress = createIpList(list)
  if (hasAddress === undefined) return (_request, key) => keys.has(key)
  // With a key generator the client's address may be a proxy's, the same for all, so the key is compared.
  if (given.keyGenerator !== undefined) return (_request, key) => keys.has(key) || hasAddress(`${key}`)
  return (request, key) => keys.has(key) || hasAddress(request.ip)
}

function parseCost (cost: unknown): ((request: FastifyRequest) => MaybePromise<number>) | undefined {
  if (typeof cost !== 'function') return isCost(cost) ? () => cost : undefined
  return request => whenReady((cost as (request: FastifyRequest) => MaybePromise<unknown>)(request), value => {
    if (!isCost(value)) throw invalidResult('cost', request, value, COST_ALLOWED)
    return value
  })
}

/** The policy is resolved once if it is the same for all requests, otherwise once for each pair of max and window. */
function resolvePolicyOf (given: BoundedRouteOptions): ResolvedRouteOptions['policyOf'] {
  const { max, timeWindow, ...rest } = given
  if (typeof max !== 'function' && typeof timeWindow !== 'function') {
    const policy = resolvePolicy({ ...rest, max, timeWindow })
    return () => policy
  }
  if (rest.limits !== undefined) refuseOption('rate-limit', given, 'limits', 'left out beside "max" and "timeWindow"')
  // Options that do not depend on the request are checked now, not at the first request.
  resolvePolicy({
    ...rest,
    burst: burstWithin(rest.burst, DEFAULT_MAX),
    max: typeof max === 'function' ? Math.min(DEFAULT_MAX, largestMax(rest)) : max,
    timeWindow: typeof timeWindow === 'function' ? undefined : timeWindow
  })
  const policies = new Map<string, Policy>()
  return (request, key) => whenReady(valueFor(max ?? DEFAULT_MAX, request, key), maxNow =>
    whenReady(valueFor<Duration>(timeWindow ?? DEFAULT_TIME_WINDOW, request, key), windowNow =>
      policyFor(policies, rest, maxNow, windowNow, request)))
}

function burstWithin (burst: number | undefined, max: number): number | undefined {
  return typeof burst === 'number' && burst > max ? Math.max(max, 1) : burst
}

function valueFor<T> (value: PerRequest<T>, request: FastifyRequest, key: string): MaybePromise<T> {
  return typeof value === 'function'
    ? (value as (request: FastifyRequest, key: string) => MaybePromise<T>)(request, key)
    : value
}

function policyFor (
  policies: Map<string, Policy>, rest: BoundedPolicyOptions, max: number, timeWindow: Duration, request: FastifyRequest
): Policy {
  const window = parseDuration(timeWindow)
  if (!Number.isSafeInteger(max) || max < 0 || max > largestMax(rest)) {
    throw invalidResult('max', request, max, allowedMax(rest))
  }
  if (window === undefined || window < 1) {
    throw invalidResult('timeWindow', request, timeWindow, 'milliseconds, or a string such as \'30s\'')
  }
  const name = `${max}/${window}`
  let policy = policies.get(name)
  if (policy === undefined) {
    if (policies.size >= 1000) policies.clear()
    policy = resolvePolicy({ ...rest, burst: burstWithin(rest.burst, max), max, timeWindow: window })
    policies.set(name, policy)
  }
  return policy
}
