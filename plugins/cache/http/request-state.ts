import type { FastifyRequest } from 'fastify'
import type { CacheStatus } from '../rfc/cache-status.js'
import type { Lookup } from '../tiers/two-tier-cache.js'
import type { StoredResponse } from './stored-response.js'
import { joined } from '../rfc/stored-headers.js'
import type { CacheKey } from '../store/cache-key.js'
import type { RequestReads } from './reads/request-reads.js'
import type { ResolvedRouteCache } from './route-options.js'
import type { Fill } from '../tiers/coalescing.js'

/** The conditions and the range that the client asked for, whatever the handler is asked. */
export interface ClientConditions {
  ifNoneMatch: string | undefined
  ifModifiedSince: string | undefined
  range: string | undefined
  ifRange: string | undefined
}

/** What the cache knows of a request under way. */
export interface RequestCache {
  readonly route: ResolvedRouteCache
  readonly client: ClientConditions
  status: CacheStatus
  /** Why, for those who may ask. */
  why: string
  /** Under which its answer is looked up and stored; undefined: neither. */
  key: CacheKey | undefined
  hasOwner: boolean
  hasAuthorization: boolean
  /** Of the key itself. */
  base: Lookup | undefined
  /** Of the place of its response: the key itself, or one of its variants. */
  place: Lookup | undefined
  /** Whether this process sent the request itself, to refresh what is stored. */
  isBackground: boolean
  /** The making of the answer, where it may be stored. */
  fill: Fill | undefined
  /** What responses of its key depend on, where it is known before the handler runs that its response is not stored. */
  passesFor: readonly string[] | undefined
  /** What is there, but may not be used as it is. */
  stale: StoredResponse | undefined
  /** Whether the handler was asked if that is still right. */
  validates: boolean
  /** The reply's headers before the handler ran. */
  before: Record<string, unknown>
  /** When the handler was asked, by the store's clock. */
  requestedAt: number
  extraTags: string[]
  /** What an async `ttl` of the route said: milliseconds. */
  saidTtl: number | undefined
  /** Whether the handler, or a hook, said that its answer is not to be stored, or failed. */
  isRefused: boolean
  hasFailed: boolean
  /** Whether the handler's answer came by. */
  isTaken: boolean
  /** Whether it is a stream, which may not have been read to its end. */
  isStreamed: boolean
  /** Whether the answer came from the cache. */
  isAnswered: boolean
  /** Whether it is neither stored nor the handler's. */
  isGenerated: boolean
  /** Whether hooks may encode the handler's response, which has no coding and no `Vary: Accept-Encoding` of its own. */
  leavesEncoding: boolean
  /** What it was then; hooks of others come after it. */
  answer: { entry: StoredResponse, status: number, type: unknown, coding: unknown, body: Buffer | string } | undefined
  /** What hooks and the handler read of the request; undefined where that is not watched. */
  reads: RequestReads | undefined
}

export function createState (request: FastifyRequest, route: ResolvedRouteCache): RequestCache {
  const { headers } = request
  return {
    route,
    client: {
      ifNoneMatch: joined(headers['if-none-match']),
      ifModifiedSince: joined(headers['if-modified-since']),
      range: joined(headers.range),
      ifRange: joined(headers['if-range'])
    },
    status: { outcome: 'BYPASS', fwd: 'bypass', fwdStatus: undefined, ttl: undefined, stored: false, collapsed: false },
    why: '',
    key: undefined,
    hasOwner: false,
    hasAuthorization: headers.authorization !== undefined,
    base: undefined,
    place: undefined,
    isBackground: false,
    fill: undefined,
    passesFor: undefined,
    stale: undefined,
    validates: false,
    before: {},
    requestedAt: 0,
    extraTags: [],
    saidTtl: undefined,
    isRefused: false,
    hasFailed: false,
    isTaken: false,
    isStreamed: false,
    isAnswered: false,
    isGenerated: false,
    leavesEncoding: false,
    answer: undefined,
    reads: undefined
  }
}
