import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { LRUCache } from 'lru-cache'
import { withDeadline } from '../../shared/redis/deadline.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { readingAs } from '../../shared/http/read-recorder.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import type { StoredResponse } from './stored-response.js'
import type { CacheKey } from '../store/cache-key.js'
import { lookupResponse, type LookupResult } from './lookup.js'
import { createInternalRequest, sourceOf, type RequestSource } from './internal-request.js'
import { tagsFor } from './path-tags.js'
import type { RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './route-options.js'
import { COOKIE, cookieOf } from '../rfc/vary.js'
import { ownHeaders } from './reads/watch-request.js'
import { isGone } from './invalidation.js'
import type { Fill, FillCoordinator } from '../tiers/coalescing.js'

/** The work that a request in the background does. */
export interface RefreshTask {
  readonly key: CacheKey
  readonly located: LookupResult
  readonly fill: Fill
  /** The state of the request, once it has reached the lookup. */
  state: RequestCache | undefined
}

/** Refreshes stale responses in the background while they are still served. */
export interface Refresher {
  /** @returns false where the app has refused a request in the background, so that a client's own request has to refresh the response */
  refresh (request: FastifyRequest, state: RequestCache, entry: StoredResponse): boolean
  /** Returns the task of a request that this refresher sent itself, once. */
  take (request: FastifyRequest): RefreshTask | undefined
  /** Waits for what is under way. */
  settle (): Promise<void>
}

// How Fastify and HTTP/2 find the route, where the request was sent to, and who sent it: hooks redirect, refuse and log by these.
const OF_THE_REQUEST = ['host', ':authority', ':path', ':scheme', 'accept-version', 'user-agent',
  'forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-port', 'x-forwarded-prefix', 'x-forwarded-proto', 'x-real-ip']
// Of one message, and what makes the response another one.
const NOT_REPEATED = /^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|expect|content-.*|cache-control|pragma|if-.*|range)$/
const MOST_REMEMBERED = 1000
/** For how long clients' own requests refresh a response that a request in the background could not refresh. */
const REFUSED_MS = 600_000
/** A request in the background has no client that gives up: after this something hangs. */
const LONGEST_MS = 60_000
const CLOSE_MS = 1000

/**
 * One of all instances sends the request to itself again: the same URL, host, protocol and address, and of the other headers and cookies those that
 * the key holds. What the client sent beside these must not leave a trace in a response that others share.
 */
export function createRefresher (fastify: FastifyInstance, core: TwoTierCache, works: FillCoordinator): Refresher {
  const tasks = new Map<object, RefreshTask>()
  const running = new Map<string, Promise<void>>()
  const aborts = new Set<() => void>()
  // Until when clients' own requests refresh a response.
  const refused = new LRUCache<string, number>({ max: MOST_REMEMBERED })
  const logged = new WeakMap<ResolvedRouteCache, Set<string>>()
  let isClosing = false
  fastify.addHook('preClose', done => {
    isClosing = true
    done()
  })

  async function run (name: string, request: FastifyRequest, state: RequestCache, entry: StoredResponse, source: RequestSource): Promise<void> {
    const { key, route } = state
    if (key === undefined) return
    const located = await lookupResponse(core, key, await readingAs('suite', request, () => tagsFor(request, route)), request, state)
    // Another instance was quicker.
    if (located.response !== undefined && located.response.storedAt > entry.storedAt) return
    const fill = await works.tryLead(located.place)
    if (fill === undefined) return
    const { raw, send, abort } = createInternalRequest(source)
    const task: RefreshTask = { key, located, fill, state: undefined }
    tasks.set(raw, task)
    aborts.add(abort)
    try {
      // An app that closes answers 503.
      if (isClosing) return
      judge(name, request, state, await withDeadline(send(fastify), LONGEST_MS, tooLate, core.clock), task)
    } catch (error) {
      abort()
      throw error
    } finally {
      aborts.delete(abort)
      tasks.delete(raw)
      fill.finish(undefined)
    }
  }

  function judge (name: string, request: FastifyRequest, { route }: RequestCache, sent: number | undefined, task: RefreshTask): void {
    const status = task.state?.status.fwdStatus ?? sent ?? 200
    if (sent !== undefined && isStored(task)) return
    // It may do better the next time.
    if (status === 429 || status >= 500) return log('failed', request, route, `the request in the background was answered ${status}`)
    if (sent === undefined && !task.state?.why) return log('failed', request, route, 'the response broke off')
    const why = whyNotStored(status, task)
    if (why === undefined) return
    refused.set(name, core.clock.monotonic() + REFUSED_MS)
    log('refused', request, route, why)
  }

  /** Logs once a route: each request could cause it. */
  function log (kind: keyof typeof EFFECTS, request: FastifyRequest, route: ResolvedRouteCache, reason: string): void {
    const kinds = logged.get(route) ?? new Set()
    if (isClosing || kinds.has(kind)) return
    logged.set(route, kinds.add(kind))
    const { url } = request.routeOptions
    request.log.warn({ plugin: 'cache', route: url, reason }, `cache: route ${url} was not refreshed in the background: ${reason}; ${EFFECTS[kind]}`)
  }

  return {
    refresh (request, state, entry) {
      const name = `${state.key?.id} ${JSON.stringify(entry.meta.vary)}`
      if ((refused.get(name) ?? -Infinity) > core.clock.monotonic()) return false
      if (running.has(name)) return true
      // Later the connection may be gone.
      const source = readingAs('suite', request, () => sourceOf(request, headersOf(request, state, entry), state.hasOwner))
      const done = run(name, request, state, entry, source)
        .catch(error => log('failed', request, state.route, reasonOf(error)))
        .finally(() => running.delete(name))
      running.set(name, done)
      return true
    },
    take (request) {
      if (tasks.size === 0) return undefined
      const task = tasks.get(request.raw)
      tasks.delete(request.raw)
      return task
    },
    async settle () {
      // A response without an end does not keep the app from closing.
      await withDeadline(Promise.all(running.values()), CLOSE_MS, tooLate, core.clock).catch(() => { for (const abort of aborts) abort() })
    }
  }
}

function tooLate (): Error {
  return new Error(`no response within ${LONGEST_MS / 1000} seconds`)
}

const EFFECTS = {
  failed: 'the stale response is served for as long as staleWhileRevalidate says, and a later request tries again',
  refused: 'clients\' own requests refresh it. A request in the background has the host, the protocol and the address of a client\'s, and the headers and cookies of the key: name ' +
    'what the hooks or the handler need in vary or key.cookies, or leave staleWhileRevalidate out'
}

/** Whether the response was stored. In place of a failure the stale response is served, and stays as it is. */
function isStored ({ state }: RefreshTask): boolean {
  return state !== undefined && state.isTaken && state.why === '' && (state.status.fwdStatus ?? 0) < 500
}

/** @returns undefined where the source says that there is nothing to store any more */
function whyNotStored (status: number, { state, key }: RefreshTask): string | undefined {
  if (state === undefined) return `a hook or another route answered ${status} in place of the route`
  if (state.key === undefined) return `the request in the background bypasses the cache ("${state.why}")`
  if (state.key.text !== key.text) return 'the request in the background has another key'
  if (status === 401 || status === 403) return `the handler answered ${status}`
  if (isGone(status)) return undefined
  if (!state.isTaken) return 'the response bypassed the cache, as by reply.hijack()'
  // The names are logged one by one.
  return state.why.startsWith('reads ') ? 'the response depends on something that the key does not hold' : `the response, with the status ${status}, must not be stored ("${state.why}")`
}

function headersOf (request: FastifyRequest, { route, hasOwner }: RequestCache, entry: StoredResponse): IncomingHttpHeaders {
  const given = ownHeaders(request)
  // An owner may be named by any header, and the response is for no one else.
  const names = hasOwner ? Object.keys(given).filter(name => !NOT_REPEATED.test(name)) : [...OF_THE_REQUEST, ...route.vary, ...Object.keys(entry.meta.vary)]
  const headers: IncomingHttpHeaders = {}
  for (const name of names) if (given[name] !== undefined) headers[name] = given[name]
  // A client may have asked by HEAD.
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
