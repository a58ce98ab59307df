import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { parseDuration } from '../../shared/plugin/duration.js'
import { describe, invalidOptionError, namingRoute } from '../../shared/plugin/errors.js'
import { DEFAULT_TIMEOUT_MS } from '../../shared/redis/guard.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { readOptions, type OptionReader } from '../../shared/plugin/option-reader.js'
import { ChosenCodings } from './body/content-codings.js'
import type { StatsCounter } from '../stats.js'
import { isStorableStatus } from '../store/entry.js'
import type { Explain } from './explain.js'
import { resolveIgnoredNames, type IgnoredNames } from './reads/ignored-names.js'
import { createOwnerOf } from './owner.js'
import { PLUGIN_OPTIONS, ROUTE_OPTIONS, type CachePluginOptions, type KeyOptions, type RouteCacheOptions, type TagsOption } from '../options.js'
import { isListOfStrings, resolveTiers, resolveTtl, returnedTtl, TTL_RESULTS, type Tiers } from '../tiers/ttl.js'
import { checkTags } from '../store/tags.js'
import { resolveDefaults, type ValuePlan } from '../data/value-options.js'
import { resolveSerializer, type Serializer } from '../data/serializer.js'
import { MAX_LIFE_MS } from '../store/store.js'
import { VariantUses } from './variant-uses.js'
import { COOKIE, varyOfKey } from '../rfc/vary.js'

/** How a route is cached, complete and checked. Times are milliseconds. */
export interface ResolvedRouteCache {
  /** Whether answers are stored, or the route only invalidates. */
  stores: boolean
  /** For how long an answer is fresh; undefined: as it says itself. NaN: the route's function returned no ttl, and the answer is not stored. */
  ttlOf: ((request: FastifyRequest, reply: FastifyReply) => MaybePromise<number>) | undefined
  staleWhileRevalidate: number
  staleIfError: number
  jitter: number
  statuses: ReadonlySet<number>
  tagsOf: (request: FastifyRequest) => MaybePromise<readonly string[]>
  /** As the route's own function returns them: anything. */
  invalidatedBy: (request: FastifyRequest) => unknown
  /** Whether it names tags that its answers invalidate. */
  hasInvalidations: boolean
  /** Names of headers, and `cookie:{name}` of cookies, that are a part of the key. */
  vary: readonly string[]
  /** The `Vary` that is added for these; undefined: none. */
  varyField: string | undefined
  /** Names the owner of a response; undefined where all requests share it. */
  ownerOf: ((request: FastifyRequest) => MaybePromise<string | undefined>) | undefined
  /** Whether it is the same for all, whoever they are. */
  isPublic: boolean
  keysHost: boolean
  /** Whether a query parameter is a part of the key; undefined: all are. */
  keysParameter: ((name: string) => boolean) | undefined
  hook: 'preHandler' | 'onRequest'
  obeysRequest: boolean
  heuristic: number
  storesSetCookie: boolean
  makesEtag: boolean
  maxEntrySize: number
  maxVariants: number
  variantUses: VariantUses
  codings: ChosenCodings
  targeted: readonly string[]
  stripsTargeted: boolean
  unkeyed: 'warn' | 'bypass' | false
  /** What may be read all the same. */
  harmless: IgnoredNames
  /** Names of which a read was logged. */
  warned: Set<string>
  /** Where its requests are counted. */
  counts?: StatsCounter
}

export interface ResolvedCacheOptions {
  timeout: number
  global: boolean
  l1: number | false
  maxSize: number
  servesAlone: boolean
  cacheStatus: string | undefined
  xCache: boolean
  explains: Explain | undefined
  /** Of values that do not say otherwise. */
  values: ValuePlan
  tiers: Tiers
  serializer: Serializer
  freezes: boolean
  clock: Clock
  route: (given: RouteCacheOptions | boolean, where: string) => ResolvedRouteCache
}

const DEFAULT_TTL = '30s'
const HEADERS = "; 'headers'"
const DEFAULT_STATUSES = [200, 203, 204, 300, 301, 308]

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveCacheOptions (given: CachePluginOptions): ResolvedCacheOptions {
  const read = readOptions('cache', given)
  read.onlyKnown(PLUGIN_OPTIONS)
  const tiers = resolveTiers(given.tiers, read)
  const common = Object.fromEntries(Object.entries(given).filter(([name]) => ROUTE_OPTIONS.includes(name)))
  const plugin = resolveRoute(common, tiers)
  // What a route's ttl may be beside a duration says nothing of values.
  const fallbackTtl = typeof given.ttl === 'function' || given.ttl === 'headers' ? parseDuration(DEFAULT_TTL) ?? 0 : resolveTtl(given.ttl ?? DEFAULT_TTL, tiers, read, HEADERS)
  const serializer = resolveSerializer(given.serializer, read)
  const freezes = read.boolean('freeze', false)
  if (freezes && serializer.name !== 'json') read.fail('freeze', "true only with the serializer 'json'")
  if (given.explain !== undefined && typeof given.explain !== 'function') read.fail('explain', 'a function of the request')
  return {
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    global: read.boolean('global', false),
    l1: given.l1 === false ? false : read.integer('l1', 64 * 1024 ** 2, { min: 1024 }),
    maxSize: read.integer('maxSize', 64 * 1024 ** 2, { min: 1024 }),
    servesAlone: read.oneOf('onStoreError', 'open', ['open', 'local']) === 'local',
    cacheStatus: given.cacheStatus === false ? undefined : resolveName(read),
    xCache: read.boolean('xCache', true),
    explains: given.explain,
    values: resolveDefaults(given.values ?? {}, {
      ttlOf: () => fallbackTtl,
      staleWhileRevalidate: plugin.staleWhileRevalidate,
      staleIfError: plugin.staleIfError,
      jitter: plugin.jitter,
      negativeTtl: 0,
      softTimeout: Infinity,
      hardTimeout: Infinity,
      refreshAhead: 0
    }, tiers),
    tiers,
    serializer,
    freezes,
    clock: read.clock(),
    route (route, where) {
      const own = typeof route === 'boolean' ? {} : route
      if (typeof own !== 'object' || own === null) throw invalidOptionError('cache', 'config.cache', route, 'true, false or an object')
      readOptions('cache', own).onlyKnown(ROUTE_OPTIONS)
      return resolveRoute({ ...common, ...Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined)) }, tiers, own, where)
    }
  }
}

/** A token or a short text, as RFC 9211 §2 has it. */
function resolveName (read: OptionReader): string {
  const name = read.string('cacheStatus', 'fastify-redis-suite')
  return /^[\x20-\x7e]{1,64}$/.test(name) ? name : read.fail('cacheStatus', '1 to 64 printable ASCII characters, or false')
}

/** Whether a route's own options say what its responses invalidate, and nothing else. */
export function onlyInvalidates (own: RouteCacheOptions): boolean {
  return own.invalidates !== undefined && Object.keys(own).length === 1
}

function resolveTtlOf (ttl: RouteCacheOptions['ttl'], tiers: Tiers, read: OptionReader): ResolvedRouteCache['ttlOf'] {
  if (ttl === 'headers') return undefined
  if (typeof ttl !== 'function') {
    const fixed = resolveTtl(ttl ?? DEFAULT_TTL, tiers, read, HEADERS)
    return () => fixed
  }
  let isWarned = false
  return (request, reply) => whenReady<unknown, number>(ttl(request, reply), result => {
    const ms = returnedTtl(result, tiers)
    if (ms !== undefined) return ms
    const { url } = request.routeOptions
    if (!isWarned) request.log.warn({ plugin: 'cache', route: url }, `cache: route ${url}: the function "ttl" returned ${describe(result)}: the response is not stored; return ${TTL_RESULTS} (logged once)`)
    isWarned = true
    return NaN
  })
}

function resolveRoute (given: RouteCacheOptions, tiers: Tiers, own: RouteCacheOptions = given, where = ''): ResolvedRouteCache {
  const read = readOptions('cache', given)
  const { vary = [], statuses = DEFAULT_STATUSES, private: ownerOf, targeted = ['cdn-cache-control'] } = given
  if (!isListOfStrings(vary) || !vary.every(isFieldName)) read.fail('vary', "a list of header names, such as ['x-tenant']")
  if (!isListOfStrings(targeted)) read.fail('targeted', 'a list of header names')
  if (ownerOf !== undefined && typeof ownerOf !== 'function') read.fail('private', 'a function of the request that returns the id of its owner')
  const isPublic = read.boolean('public', false)
  if (isPublic && ownerOf !== undefined) read.fail('public', 'left out beside private')
  if (!Array.isArray(statuses) || !statuses.every(isStorableStatus)) read.fail('statuses', 'a list of status codes from 200, without 206 and 304')
  const { unkeyed = 'bypass', harmless = [] } = given
  if (![false, 'warn', 'bypass'].includes(unkeyed)) read.fail('unkeyed', "'bypass', 'warn' or false")
  if (!isListOfStrings(harmless)) read.fail('harmless', "a list of names, such as 'x-theme', 'cookie:theme' or '!user-agent'")
  const life = { max: MAX_LIFE_MS / 2 }
  const { cookies, ...key } = resolveKey(given.key, read)
  const keyed = [...new Set([...vary.map(name => name.toLowerCase()), ...cookies.map(name => COOKIE + name)])].sort()
  return {
    stores: !onlyInvalidates(own),
    ttlOf: resolveTtlOf(given.ttl, tiers, read),
    staleWhileRevalidate: read.duration('staleWhileRevalidate', 0, life),
    staleIfError: read.duration('staleIfError', 0, life),
    jitter: read.fraction('jitter', 0),
    statuses: new Set(statuses),
    tagsOf: resolveTags('tags', given.tags, read),
    invalidatedBy: typeof given.invalidates === 'function' ? given.invalidates : resolveTags('invalidates', given.invalidates, read),
    hasInvalidations: given.invalidates !== undefined,
    vary: keyed,
    varyField: varyOfKey(keyed),
    ownerOf: ownerOf && createOwnerOf(ownerOf, where),
    isPublic,
    ...key,
    hook: read.oneOf('hook', 'preHandler', ['preHandler', 'onRequest']),
    obeysRequest: read.oneOf('requestDirectives', 'ignore', ['obey', 'ignore']) === 'obey',
    heuristic: read.fraction('heuristic', 0),
    storesSetCookie: read.boolean('storeSetCookie', false),
    makesEtag: read.boolean('etag', true),
    maxEntrySize: read.integer('maxEntrySize', 1024 ** 2, { min: 1 }),
    maxVariants: read.integer('maxVariants', 20, { min: 1, max: 1000 }),
    variantUses: new VariantUses(),
    codings: new ChosenCodings(),
    targeted: targeted.map(name => name.toLowerCase()),
    stripsTargeted: read.boolean('stripTargeted', false),
    unkeyed,
    harmless: resolveIgnoredNames(harmless.map(toName)),
    warned: new Set()
  }
}

/** A field name (RFC 9110 §5.1), or the pseudo-header of HTTP/2. `*` would be one, but in `Vary` it stands for everything. */
function isFieldName (name: string): boolean {
  return name !== '*' && /^:?[!#$%&'*+.^_`|~\da-z-]+$/i.test(name)
}

/** Of a cookie or parameter case counts, of a header it does not. */
function toName (name: string): string {
  return /^!?(?:cookie|query):|^!?re(?:quest|ply)\./.test(name) ? name : name.toLowerCase()
}

function resolveKey (key: KeyOptions | undefined, read: OptionReader): Pick<ResolvedRouteCache, 'keysHost' | 'keysParameter'> & { cookies: readonly string[] } {
  if (key === undefined) return { keysHost: false, keysParameter: undefined, cookies: [] }
  if (typeof key !== 'object' || key === null) read.fail('key', '{ host, query, cookies }')
  const readKey = readOptions('cache', key)
  readKey.onlyKnown(['host', 'query', 'cookies'])
  const keysHost = readKey.boolean('host', false)
  const { query, cookies = [] } = key
  if (!isListOfStrings(cookies)) readKey.fail('cookies', "a list of cookie names, such as ['lang']")
  if (query === undefined) return { keysHost, keysParameter: undefined, cookies }
  const { include, exclude } = { include: undefined, exclude: undefined, ...query }
  if (typeof query === 'object' && !Array.isArray(query)) readOptions('cache', query).onlyKnown(['include', 'exclude'])
  const names = include ?? exclude
  if ((include === undefined) === (exclude === undefined) || !isListOfStrings(names)) return readKey.fail('query', '{ include: [names] } or { exclude: [names] }')
  const listed = new Set(names)
  return { keysHost, cookies, keysParameter: name => listed.has(name) === (include !== undefined) }
}

function resolveTags (name: string, tags: TagsOption | undefined, read: OptionReader): ResolvedRouteCache['tagsOf'] {
  if (tags === undefined) return () => []
  if (typeof tags === 'function') return request => whenReady<unknown, readonly string[]>(tags(request), given => namingRoute(request.routeOptions as { method: string, url: string }, () => checkTags(given, name)))
  if (!Array.isArray(tags)) return read.fail(name, 'a list of tags, or a function of the request that returns one')
  const fixed = checkTags(tags, name)
  return () => fixed
}
