import type { FastifyRequest } from 'fastify'
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
import type { CustomStoreConstructor } from './custom-store.js'
import { resolveHeaders, type HeaderNames } from './header-names.js'
import { createIpList, ipKey, isInvalidRange } from './ip-address.js'
import { burstWithin, resolvePolicyOf, type BoundedRouteOptions, type PolicyOf } from './policy-of.js'
import { DEFAULT_MAX, DEFAULT_MAX_LOG_UNITS, DEFAULT_TIME_WINDOW, LARGEST_MAX, POLICY_OPTIONS } from './policy.js'
import type {
  AccessList, CountByOutcome, KeyGenerator, OnStoreError, RateLimitPluginOptions, RouteRateLimitOptions
} from './types.js'

const accessList = () => option<AccessList>({
  type: 'list of keys, addresses and CIDR ranges, or `(request, key) => boolean`',
  allowed: 'a list of keys, addresses and CIDR ranges, or a function',
  nullIsDefault: true,
  parse: given => isAccessList(given) ? given : undefined
})

export const ROUTE_RATE_LIMIT_OPTIONS = {
  ...POLICY_OPTIONS,
  limits: unchecked('1 to 10 of `{ max, timeWindow, name?, burst? }`, or `(request, key) => limits or false`'),
  plans: unchecked('`{ [plan]: limits or false }`'),
  plan: callable('`(request, key) => string or false`'),
  max: unchecked('integer or `(request, key) => integer`', undefined, DEFAULT_MAX),
  timeWindow: unchecked('duration or `(request, key) => duration`', undefined, DEFAULT_TIME_WINDOW),
  cost: option({
    type: 'integer or `(request) => integer`',
    allowed: 'a whole number from 0',
    fallback: 1,
    nullIsDefault: true,
    parse: parseCost
  }),
  count: option<CountByOutcome>({
    type: "`'failures'`, `'successes'`, or `(request, reply) => integer`",
    allowed: "'failures', 'successes' or a function",
    fallbackText: 'all, with their cost',
    nullIsDefault: true,
    parse: given => given === 'failures' || given === 'successes' || typeof given === 'function'
      ? given as CountByOutcome
      : undefined
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

type ListCheck = (request: FastifyRequest, key: string) => MaybePromise<boolean>

type UnchangedOption = 'count' | 'hook' | 'early' | 'algorithm' | 'groupId' | 'dryRun' | 'cost' |
  'errorResponseBuilder' | 'onExceeding' | 'onExceeded' | 'onBanReach'

/** How a route is limited, complete and checked. */
export interface ResolvedRouteOptions extends Pick<Resolved<typeof ROUTE_RATE_LIMIT_OPTIONS>, UnchangedOption> {
  policyOf: PolicyOf
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

/** The ways to set limits, which exclude each other: a route's own way replaces the plugin's. */
const WAYS = [['max', 'timeWindow'], ['limits'], ['plans']] as const

/** A route's own options override the plugin's. */
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
  const own = WAYS.find(names => names.some(name => route[name] !== undefined))
  if (own !== undefined) for (const name of WAYS.flat()) if (!own.includes(name as never)) delete inherited[name]
  // An inherited burst above the route's own max is lowered to it.
  if (typeof route.max === 'number') inherited.burst = burstWithin(inherited.burst, route.max)
  const given = Object.fromEntries(Object.entries(route).filter(([, value]) => value !== undefined))
  return resolveRoute({ ...inherited, ...given, maxLogUnits: maxLogUnitsOf(plugin) })
}

function resolveRoute (given: BoundedRouteOptions): ResolvedRouteOptions {
  const options = readOptions('rate-limit', ROUTE_RATE_LIMIT_OPTIONS, given)
  const {
    ipv6Subnet, count, hook, early, algorithm, groupId, dryRun, cost, errorResponseBuilder, onExceeding, onExceeded,
    onBanReach
  } = options
  return {
    policyOf: resolvePolicyOf(given),
    algorithm,
    cost,
    keyGenerator: options.keyGenerator ?? (request => ipKey(request, ipv6Subnet)),
    allowList: resolveList('allowList', given, options.allowList),
    denyList: resolveList('denyList', given, options.denyList),
    count,
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
