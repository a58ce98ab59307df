import type { FastifyRequest } from 'fastify'
import { KEY_PREFIX, KEY_PREFIX_ALLOWED } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { parseDuration, type Duration } from '../../shared/plugin/duration.js'
import { invalidOptionError } from '../../shared/plugin/errors.js'
import { DEFAULT_TIMEOUT_MS } from '../../shared/redis/guard.js'
import { MAX_ENTRIES, readOptions, type OptionReader } from '../../shared/plugin/option-reader.js'
import { ipKey, createIpList, isInvalidRange } from './ip-address.js'
import { COST_ALLOWED, invalidResult, isCost } from '../errors.js'
import { resolveHeaders, type HeaderNames } from './headers.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import {
  PLUGIN_OPTIONS, ROUTE_OPTIONS, type AccessList, type KeyGenerator, type PerRequest, type RateLimitHook, type RateLimitPluginOptions,
  type RouteRateLimitOptions
} from './types.js'
import type { Algorithm, Policy } from '../policy.js'
import { allowedMax, DEFAULT_MAX, DEFAULT_TIME_WINDOW, LARGEST_MAX, largestMax, resolvePolicy, type BoundedPolicyOptions } from './policy.js'
import type { OnStoreError } from './types.js'

type BoundedRouteOptions = RouteRateLimitOptions & Pick<BoundedPolicyOptions, 'maxLogUnits'>

type ListCheck = (request: FastifyRequest, key: string) => MaybePromise<boolean>

/** How a route is limited, complete and checked. */
export interface ResolvedRouteOptions extends Pick<RouteRateLimitOptions, 'errorResponseBuilder' | 'onExceeding' | 'onExceeded' | 'onBanReach'> {
  policyOf: (request: FastifyRequest, key: string) => MaybePromise<Policy>
  costOf: (request: FastifyRequest) => MaybePromise<number>
  keyOf: KeyGenerator
  isAllowed: ListCheck | undefined
  isDenied: ListCheck | undefined
  hook: RateLimitHook
  early: boolean
  algorithm: Algorithm
  groupId: string | undefined
  dryRun: boolean
  headers: HeaderNames
  onStoreError: OnStoreError
  /** Of a memory store of its own, where it asks for one. */
  cache: number | undefined
}

export interface ResolvedRateLimitOptions extends ResolvedRouteOptions {
  global: boolean
  nameSpace: string
  timeout: number
  cache: number
  maxLogUnits: number | undefined
  instances: number
  clock: Clock
}

const HOOKS: readonly RateLimitHook[] = ['onRequest', 'preParsing', 'preValidation', 'preHandler']

export function resolvePluginOptions (given: RateLimitPluginOptions): ResolvedRateLimitOptions {
  const read = readOptions('rate-limit', given)
  read.onlyKnown(PLUGIN_OPTIONS)
  if (given.store !== undefined && typeof given.store !== 'function') read.fail('store', 'a class with incr() and child()')
  const maxLogUnits = resolveMaxLogUnits(given)
  return {
    ...resolveRoute({ ...given, maxLogUnits }),
    maxLogUnits,
    global: read.boolean('global', true),
    nameSpace: resolveNameSpace(given.nameSpace, read),
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    cache: read.integer('cache', 5000, { min: 1, max: MAX_ENTRIES }),
    instances: read.integer('instances', 1, { min: 1 }),
    clock: read.clock()
  }
}

/** A store of the user's own keeps no log. */
function resolveMaxLogUnits (given: RateLimitPluginOptions): number | undefined {
  if (given.store !== undefined) return LARGEST_MAX
  return given.maxLogUnits === undefined ? undefined : readOptions('rate-limit', given).integer('maxLogUnits', 1, { min: 1, max: LARGEST_MAX })
}

function resolveNameSpace (nameSpace: string | undefined, read: OptionReader): string {
  if (nameSpace === undefined) return ''
  return typeof nameSpace === 'string' && KEY_PREFIX.test(nameSpace) ? nameSpace : read.fail('nameSpace', KEY_PREFIX_ALLOWED)
}

/** A route's own options over the plugin's. `max` and `limits` exclude each other, so that either replaces both. */
export function resolveRouteOptions (plugin: RateLimitPluginOptions, route: RouteRateLimitOptions): ResolvedRouteOptions {
  const read = readOptions('rate-limit', route)
  read.onlyKnown(ROUTE_OPTIONS)
  if (route.early === true && plugin.early !== true) read.fail('early', 'false, or true where the plugin is given it too')
  const inherited: RouteRateLimitOptions = Object.fromEntries(Object.entries(plugin).filter(([name]) => ROUTE_OPTIONS.includes(name) && name !== 'cache'))
  if (route.limits !== undefined) delete inherited.max
  if (route.limits !== undefined) delete inherited.timeWindow
  if (route.max !== undefined || route.timeWindow !== undefined) delete inherited.limits
  // A burst is a part of what may come: below the plugin's, all of it.
  if (typeof route.max === 'number') inherited.burst = burstWithin(inherited.burst, route.max)
  const own = Object.fromEntries(Object.entries(route).filter(([, value]) => value !== undefined))
  return resolveRoute({ ...inherited, ...own, maxLogUnits: resolveMaxLogUnits(plugin) })
}

function resolveRoute (given: BoundedRouteOptions): ResolvedRouteOptions {
  const read = readOptions('rate-limit', given)
  const { keyGenerator, errorResponseBuilder, onExceeding, onExceeded, onBanReach } = given
  for (const [name, value] of Object.entries({ keyGenerator, errorResponseBuilder, onExceeding, onExceeded, onBanReach })) {
    if (value !== undefined && typeof value !== 'function') read.fail(name, 'a function')
  }
  const subnet = read.integer('ipv6Subnet', 64, { max: 128 })
  return {
    policyOf: resolvePolicyOf(given, read),
    algorithm: given.algorithm ?? 'sliding-log',
    costOf: resolveCost(given.cost, read),
    keyOf: keyGenerator ?? (request => ipKey(request, subnet)),
    isAllowed: resolveList('allowList', given, read),
    isDenied: resolveList('denyList', given, read),
    hook: read.oneOf('hook', 'onRequest', HOOKS),
    early: read.boolean('early', false),
    groupId: given.groupId === undefined ? undefined : read.string('groupId', ''),
    dryRun: read.boolean('dryRun', false),
    headers: resolveHeaders(given, read),
    onStoreError: resolveOnStoreError(given, read),
    cache: given.cache === undefined ? undefined : read.integer('cache', 1, { min: 1, max: MAX_ENTRIES }),
    errorResponseBuilder,
    onExceeding,
    onExceeded,
    onBanReach
  }
}

function resolveOnStoreError (given: RouteRateLimitOptions, read: OptionReader): OnStoreError {
  if (given.skipOnError === undefined) return read.oneOf('onStoreError', 'local', ['local', 'open', 'closed'])
  if (given.onStoreError !== undefined) read.fail('skipOnError', 'skipOnError or onStoreError, not both')
  return read.boolean('skipOnError', false) ? 'open' : 'throw'
}

function resolveList (name: 'allowList' | 'denyList', given: RouteRateLimitOptions, read: OptionReader): ListCheck | undefined {
  const list: AccessList | null | undefined = given[name]
  if (list === undefined || list === null) return undefined
  if (typeof list === 'function') return list
  if (!Array.isArray(list) || !list.every(entry => typeof entry === 'string')) return read.fail(name, 'a list of keys, addresses and CIDR ranges, or a function')
  const invalid = list.find(isInvalidRange)
  if (invalid !== undefined) throw invalidOptionError('rate-limit', `${name}[${list.indexOf(invalid)}]`, invalid, 'an address with a prefix length of 0 to 32 (IPv4) or 128 (IPv6), such as 10.0.0.0/8')
  const keys = new Set<string>(list)
  const hasAddress = createIpList(list)
  if (hasAddress === undefined) return (_request, key) => keys.has(key)
  // Who says whose limit it is says who the client is: its address may be a proxy's, the same for all.
  if (given.keyGenerator !== undefined) return (_request, key) => keys.has(key) || hasAddress(`${key}`)
  return (request, key) => keys.has(key) || hasAddress(request.ip)
}

function resolveCost (cost: RouteRateLimitOptions['cost'], read: OptionReader): ResolvedRouteOptions['costOf'] {
  if (typeof cost !== 'function') {
    const fixed = read.integer('cost', 1)
    return () => fixed
  }
  return request => whenReady(cost(request), value => {
    if (!isCost(value)) throw invalidResult('cost', request, value, COST_ALLOWED)
    return value
  })
}

/** The policy is made once where it is the same for all requests, else once for each pair of max and window. */
function resolvePolicyOf (given: BoundedRouteOptions, read: OptionReader): ResolvedRouteOptions['policyOf'] {
  const { max, timeWindow, ...rest } = given
  if (typeof max !== 'function' && typeof timeWindow !== 'function') {
    const policy = resolvePolicy({ ...rest, max, timeWindow })
    return () => policy
  }
  if (rest.limits !== undefined) read.fail('limits', '"limits", or "max" and "timeWindow", not both')
  // What does not depend on the request is checked now, not at the first one.
  resolvePolicy({ ...rest, burst: burstWithin(rest.burst, DEFAULT_MAX), max: typeof max === 'function' ? Math.min(DEFAULT_MAX, largestMax(rest)) : max, timeWindow: typeof timeWindow === 'function' ? undefined : timeWindow })
  const policies = new Map<string, Policy>()
  return (request, key) => whenReady(valueFor(max ?? DEFAULT_MAX, request, key), maxNow =>
    whenReady(valueFor<Duration>(timeWindow ?? DEFAULT_TIME_WINDOW, request, key), windowNow => policyFor(policies, rest, maxNow, windowNow, request)))
}

function burstWithin (burst: number | undefined, max: number): number | undefined {
  return typeof burst === 'number' && burst > max ? Math.max(max, 1) : burst
}

function valueFor<T> (value: PerRequest<T>, request: FastifyRequest, key: string): MaybePromise<T> {
  return typeof value === 'function' ? (value as (request: FastifyRequest, key: string) => MaybePromise<T>)(request, key) : value
}

function policyFor (policies: Map<string, Policy>, rest: BoundedPolicyOptions, max: number, timeWindow: Duration, request: FastifyRequest): Policy {
  const window = parseDuration(timeWindow)
  if (!Number.isSafeInteger(max) || max < 0 || max > largestMax(rest)) throw invalidResult('max', request, max, allowedMax(rest))
  if (window === undefined || window < 1) throw invalidResult('timeWindow', request, timeWindow, 'milliseconds, or a string such as \'30s\'')
  const name = `${max}/${window}`
  let policy = policies.get(name)
  if (policy === undefined) {
    if (policies.size >= 1000) policies.clear()
    policy = resolvePolicy({ ...rest, burst: burstWithin(rest.burst, max), max, timeWindow: window })
    policies.set(name, policy)
  }
  return policy
}
