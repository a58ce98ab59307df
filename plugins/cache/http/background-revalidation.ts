import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { LRUCache } from 'lru-cache'
import { readingAs } from '../../shared/http/read-recorder.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { COOKIE, cookieOf } from '../rfc/vary.js'
import type { CacheKey } from '../store/cache-key.js'
import type { Fill, FillCoordinator } from '../tiers/coalescing.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { createInternalRequest, sourceOf, type RequestSource } from './internal-request.js'
import { isGone } from './invalidation.js'
import { lookupResponse, type LookupResult } from './lookup.js'
import { tagsFor } from './path-tags.js'
import { ownHeaders } from './reads/watch-request.js'
import type { RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './route-options.js'
import type { StoredResponse } from './stored-response.js'

/** The fill that a request in the background performs. */
export interface RevalidationTask {
  readonly key: CacheKey
  readonly found: LookupResult
  readonly fill: Fill
  /** The state of the request, once it has reached the lookup. */
  state: RequestCache | undefined
}

/** Fields by which Fastify and HTTP/2 route a request, and by which hooks redirect, refuse and log it. */
const ROUTING_FIELDS = ['host', ':authority', ':path', ':scheme', 'accept-version', 'user-agent',
  'forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-port', 'x-forwarded-prefix', 'x-forwarded-proto',
  'x-real-ip']
/** Fields of one message or connection, and those that ask for another response. */
const NOT_REPEATED = new RegExp('^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|' +
  'expect|content-.*|cache-control|pragma|if-.*|range)$')
const MAX_REFUSED = 1000
/** How long clients' own requests revalidate a response that a request in the background could not revalidate. */
const REFUSED_MS = 600_000
/** How long a request in the background may take: it has no client that gives up. */
const MAX_REQUEST_MS = 60_000
const CLOSE_MS = 1000

const EFFECTS = {
  failed: 'the stale response is served for as long as staleWhileRevalidate says, and a later request tries again',
  refused: 'clients\' own requests refresh it. A request in the background has the host, the protocol and the ' +
    'address ' +
    'of a client\'s, and the headers and cookies of the key: name what the hooks or the handler need in vary or ' +
    'key.cookies, or leave staleWhileRevalidate out'
}

/**
 * Revalidates stale responses in the background while they are still served (RFC 5861 §3).
 *
 * One instance sends the request to itself again: the same URL, host, protocol and address, and of the other headers
 * and cookies those that the key holds. Other fields of the client must not leave a trace in a response that others
 * share.
 */
export class BackgroundRevalidation {
  readonly #fastify: FastifyInstance
  readonly #core: TwoTierCache
  readonly #fills: FillCoordinator
  /** By the raw request, the tasks of requests that this process has sent and that have not reached the lookup. */
  readonly tasks = new Map<object, RevalidationTask>()
  readonly #running = new Map<string, Promise<void>>()
  readonly #aborts = new Set<() => void>()
  /** Until when clients' own requests revalidate a response. */
  readonly #refused = new LRUCache<string, number>({ max: MAX_REFUSED })
  readonly #logged = new WeakMap<ResolvedRouteCache, Set<string>>()
  #isClosing = false

  constructor (fastify: FastifyInstance, core: TwoTierCache, fills: FillCoordinator) {
    this.#fastify = fastify
    this.#core = core
    this.#fills = fills
    fastify.addHook('preClose', done => {
      this.#isClosing = true
      done()
    })
  }

  /**
   * Starts to revalidate a response. Returns false where the app has refused that, so that the client's own request has
   * to do it.
   */
  start (state: RequestCache, entry: StoredResponse): boolean {
    const { request, route, hasOwner } = state
    const id = `${state.key?.id} ${JSON.stringify(entry.meta.vary)}`
    if ((this.#refused.get(id) ?? -Infinity) > this.#core.clock.monotonic()) return false
    if (this.#running.has(id)) return true
    // The connection may be closed later.
    const source = readingAs('suite', request, () => sourceOf(request, repeatedHeaders(state, entry), hasOwner))
    const done = this.#revalidate(id, state, entry, source)
      .catch(error => this.#log('failed', request, route, reasonOf(error)))
      .finally(() => this.#running.delete(id))
    this.#running.set(id, done)
    return true
  }

  /** Returns the task of a request that this process sent itself, once. */
  takeTask ({ raw }: FastifyRequest): RevalidationTask | undefined {
    const task = this.tasks.get(raw)
    this.tasks.delete(raw)
    return task
  }

  /** Waits for running requests. A response without an end does not keep the app from closing. */
  async settle (): Promise<void> {
    await withDeadline(Promise.all(this.#running.values()), CLOSE_MS, timeoutError, this.#core.clock)
      .catch(() => { for (const abort of this.#aborts) abort() })
  }

  async #revalidate (id: string, state: RequestCache, entry: StoredResponse, source: RequestSource): Promise<void> {
    const { request, route, key } = state
    if (key === undefined) return
    const found = await lookupResponse(state, key, await readingAs('suite', request, () => tagsFor(request, route)))
    // Another instance has revalidated the response.
    if (found.response !== undefined && found.response.storedAt > entry.storedAt) return
    const fill = await this.#fills.tryLead(found.place)
    if (fill === undefined) return
    const { raw, send, abort } = createInternalRequest(source)
    const task: RevalidationTask = { key, found, fill, state: undefined }
    this.tasks.set(raw, task)
    this.#aborts.add(abort)
    try {
      // An app that closes answers 503.
      if (this.#isClosing) return
      const status = await withDeadline(send(this.#fastify), MAX_REQUEST_MS, timeoutError, this.#core.clock)
      this.#evaluate(id, request, route, status, task)
    } catch (error) {
      abort()
      throw error
    } finally {
      this.#aborts.delete(abort)
      this.tasks.delete(raw)
      fill.finish(undefined)
    }
  }

  /** @param sent - the status of the response; undefined where it broke off */
  #evaluate (
    id: string, request: FastifyRequest, route: ResolvedRouteCache, sent: number | undefined, task: RevalidationTask
  ): void {
    const status = task.state?.status.fwdStatus ?? sent ?? 200
    if (sent !== undefined && isStored(task)) return
    // A later request may succeed.
    if (status === 429 || status >= 500) {
      return this.#log('failed', request, route, `the request in the background was answered ${status}`)
    }
    if (sent === undefined && !task.state?.why) return this.#log('failed', request, route, 'the response broke off')
    const why = whyNotStored(status, task)
    if (why === undefined) return
    this.#refused.set(id, this.#core.clock.monotonic() + REFUSED_MS)
    this.#log('refused', request, route, why)
  }

  /** Logs once a route, as each request could cause it. */
  #log (kind: keyof typeof EFFECTS, request: FastifyRequest, route: ResolvedRouteCache, reason: string): void {
    const kinds = this.#logged.get(route) ?? new Set()
    if (this.#isClosing || kinds.has(kind)) return
    this.#logged.set(route, kinds.add(kind))
    const { url } = request.routeOptions
    request.log.warn({ plugin: 'cache', route: url, reason },
      `cache: route ${url} was not refreshed in the background: ${reason}; ${EFFECTS[kind]}`)
  }
}

function timeoutError (): Error {
  return new Error(`no response within ${MAX_REQUEST_MS / 1000} seconds`)
}

/** Whether the response was stored. In place of a failure the stale response is served, and stays stored. */
function isStored ({ state }: RevalidationTask): boolean {
  return state !== undefined && hasResponse(state) && state.why === '' && (state.status.fwdStatus ?? 0) < 500
}

/** Whether the response passed the cache. */
function hasResponse ({ phase }: RequestCache): boolean {
  return phase.kind === 'filling' && phase.response !== 'awaited'
}

/** Returns undefined where the resource is gone, so that there is nothing to store. */
function whyNotStored (status: number, { state, key }: RevalidationTask): string | undefined {
  if (state === undefined) return `a hook or another route answered ${status} in place of the route`
  if (state.key === undefined) return `the request in the background bypasses the cache ("${state.why}")`
  if (state.key.text !== key.text) return 'the request in the background has another key'
  if (status === 401 || status === 403) return `the handler answered ${status}`
  if (isGone(status)) return undefined
  if (!hasResponse(state)) return 'the response bypassed the cache, as by reply.hijack()'
  // Each name is logged once by itself.
  if (state.why.startsWith('reads ')) return 'the response depends on something that the key does not hold'
  return `the response, with the status ${status}, must not be stored ("${state.why}")`
}

function repeatedHeaders ({ request, route, hasOwner }: RequestCache, entry: StoredResponse): IncomingHttpHeaders {
  const given = ownHeaders(request)
  // Any header may name the owner, and the response is stored for the owner alone.
  const names = hasOwner
    ? Object.keys(given).filter(name => !NOT_REPEATED.test(name))
    : [...ROUTING_FIELDS, ...route.vary, ...Object.keys(entry.meta.vary)]
  const headers: IncomingHttpHeaders = {}
  for (const name of names) if (given[name] !== undefined) headers[name] = given[name]
  // The client may have sent HEAD.
  if (given[':method'] !== undefined) headers[':method'] = 'GET'
  const cookies = hasOwner ? [] : keyedCookies(given, route)
  if (cookies.length > 0) headers['cookie'] ??= cookies.join('; ')
  return headers
}

function keyedCookies (headers: IncomingHttpHeaders, { vary }: ResolvedRouteCache): string[] {
  const names = vary.filter(name => name.startsWith(COOKIE)).map(name => name.slice(COOKIE.length))
  return names.flatMap(name => {
    const value = cookieOf(headers.cookie, name)
    return value === undefined ? [] : [`${name}=${value}`]
  })
}
