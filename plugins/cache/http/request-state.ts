import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Recent } from '../../shared/data/recent.js'
import type { CacheStatus } from '../rfc/cache-status.js'
import { joined } from '../rfc/stored-headers.js'
import type { CacheKey } from '../store/cache-key.js'
import type { Fill, FillCoordinator } from '../tiers/coalescing.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import type { BackgroundRevalidation } from './background-revalidation.js'
import type { LookupResult } from './lookup.js'
import type { RequestReads } from './reads/request-reads.js'
import type { ResolvedRouteCache } from './route-options.js'
import type { HitForPass } from './hit-for-pass.js'
import type { StoredResponse } from './stored-response.js'

/** The request's property that holds its {@link RequestCache}; null where no cached route has looked it up. */
export const STATE = Symbol('cache.state')

/** The request's property that holds its {@link EarlyCalls}; null where no hook before the lookup made any. */
export const EARLY = Symbol('cache.early')

declare module 'fastify' {
  interface FastifyRequest {
    [STATE]: RequestCache | null
    [EARLY]: EarlyCalls | null
  }
}

/** Calls of `reply.cacheTags()` and `reply.noCache()` before the lookup, such as by a hook that knows the tenant. */
export interface EarlyCalls {
  readonly tags: string[]
  isRefused: boolean
}

/** The parts of the HTTP cache that all requests share. */
export interface HttpCache {
  readonly core: TwoTierCache
  readonly fills: FillCoordinator
  readonly hitForPass: HitForPass
  readonly revalidation: BackgroundRevalidation
  /** Keys that consist of the URL alone, by the URL, with their digests. */
  readonly keys: Recent<CacheKey>
}

/** The conditions and the range of the client's request. The handler may be asked with other conditions. */
export interface ClientConditions {
  ifNoneMatch: string | undefined
  ifModifiedSince: string | undefined
  range: string | undefined
  ifRange: string | undefined
}

/** The request bypasses the cache, or its lookup has not ended yet. */
interface Bypassed {
  readonly kind: 'bypassed'
}

/**
 * A stored response is sent. The fields hold the reply as the cache set it, before hooks of other plugins change it.
 */
export interface Served {
  readonly kind: 'served'
  readonly entry: StoredResponse
  readonly statusCode: number
  readonly contentType: unknown
  readonly contentEncoding: unknown
  readonly body: Buffer | string
}

/** The cache itself generated the response, such as 504 to `only-if-cached`. */
interface Generated {
  readonly kind: 'generated'
}

/** The handler runs, and its response is not stored. */
interface Passing {
  readonly kind: 'passing'
  readonly found: LookupResult
  /** The reply's headers before the handler ran. */
  readonly headersBefore: Record<string, unknown>
  /** The names that responses of the key depend on, if earlier ones were not shareable ("hit-for-pass"). */
  readonly dependsOn: readonly string[] | undefined
}

/** The handler runs, and its response may be stored: this request leads the fill. */
export interface Filling {
  readonly kind: 'filling'
  readonly found: LookupResult
  readonly headersBefore: Record<string, unknown>
  readonly fill: Fill
  /** When the handler was called, by the store's clock. */
  readonly requestedAt: number
  /** Whether this process sent the request itself, to revalidate a stored response in the background. */
  readonly isBackground: boolean
  /** The stored response whose validators replaced the client's conditions. */
  readonly validated: StoredResponse | undefined
  /** The result of an async `ttl` of the route, in milliseconds. */
  ttl: number | undefined
  /** Whether hooks may encode the response: it has neither a coding nor `Vary: Accept-Encoding` of its own. */
  leavesEncodingToHooks: boolean
  /** How far the response is: not seen by the cache yet, seen, or sent as a stream that may not have ended. */
  response: 'awaited' | 'received' | 'streamed'
}

type Phase = Bypassed | Served | Generated | Passing | Filling

/** A request under way, as the cache knows it. */
export interface RequestCache {
  readonly cache: HttpCache
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly route: ResolvedRouteCache
  /** Undefined where the client sent none. */
  readonly conditions: ClientConditions | undefined
  /** The reads of the request by hooks and the handler; undefined where reads are not watched. */
  readonly reads: RequestReads | undefined
  readonly hasAuthorization: boolean
  hasOwner: boolean
  /** Undefined where the request bypasses the cache. */
  key: CacheKey | undefined
  /** The stored response that needs validation before it is used. */
  stale: StoredResponse | undefined
  phase: Phase
  /** Tags that hooks, the handler and the response added. */
  readonly extraTags: string[]
  /** Whether `reply.noCache()` was called. */
  isRefused: boolean
  /** Whether an `onError` hook ran. */
  hasFailed: boolean
  status: CacheStatus
  /** Why the response was not served or not stored, for the option `explain`; empty where it was. */
  why: string
}

const BYPASSED: Bypassed = { kind: 'bypassed' }

export function createState (
  cache: HttpCache, request: FastifyRequest, reply: FastifyReply, route: ResolvedRouteCache,
  reads: RequestReads | undefined
): RequestCache {
  const { headers, [EARLY]: early } = request
  const { 'if-none-match': ifNoneMatch, 'if-modified-since': ifModifiedSince, range } = headers
  const isConditional = ifNoneMatch !== undefined || ifModifiedSince !== undefined || range !== undefined
  return {
    cache,
    request,
    reply,
    route,
    conditions: isConditional ? conditionsOf(headers) : undefined,
    reads,
    // A hook may have deleted the header after it read it.
    hasAuthorization: headers.authorization !== undefined || reads?.had('authorization') === true,
    hasOwner: false,
    key: undefined,
    stale: undefined,
    phase: BYPASSED,
    extraTags: early?.tags ?? [],
    isRefused: early?.isRefused ?? false,
    hasFailed: false,
    status: { outcome: 'BYPASS', fwd: 'bypass', fwdStatus: undefined, ttl: undefined, stored: false, collapsed: false },
    why: ''
  }
}

function conditionsOf (headers: FastifyRequest['headers']): ClientConditions {
  return {
    ifNoneMatch: joined(headers['if-none-match']),
    ifModifiedSince: joined(headers['if-modified-since']),
    range: joined(headers.range),
    ifRange: joined(headers['if-range'])
  }
}
