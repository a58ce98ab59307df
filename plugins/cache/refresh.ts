import { randomUUID } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { LRUCache } from 'lru-cache'
import { reasonOf } from '../shared/errors.js'
import type { CacheCore } from './core.js'
import type { StoredResponse } from './entry.js'
import { joined } from './headers.js'
import type { CacheKey } from './key.js'
import { locateResponse, type Located } from './look-up.js'
import { readingAs } from '../shared/request-reads.js'
import { tagsFor } from './paths.js'
import type { RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './resolve-options.js'
import { COOKIE, cookieOf } from './vary.js'
import type { Fill, Works } from './works.js'

/** What a request that makes an answer anew in the background is to know. */
export interface RefreshTask {
  key: CacheKey
  located: Located
  fill: Fill
  /** Whether the request reached the look-up, with the same key. */
  isUsed: boolean
}

/** Makes stale answers anew while they are still given. */
export interface Refresher {
  /** @returns false where that needs to know who asks, so that a request of somebody's has to do it */
  refresh (request: FastifyRequest, state: RequestCache, entry: StoredResponse): boolean
  /** The task of a request that this sent itself; the header that tells is gone then. */
  take (request: FastifyRequest): RefreshTask | undefined
  /** Waits for what is under way. */
  settle (): Promise<void>
}

const HEADER = 'x-fastify-redis-suite-refresh'
// Headers by which Fastify finds the route.
const ROUTING = ['host', 'accept-version']
// How a trusted proxy tells where the request was sent to.
const FORWARDED = ['x-forwarded-host', 'x-forwarded-proto']
const MOST_REMEMBERED = 1000
// Of one message, and what makes the answer another one.
const NOT_REPEATED = /^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|expect|content-.*|cache-control|pragma|if-.*|range)$/

/**
 * One instance of all sends the request again to itself, with nothing but what the key holds: who happened to ask first
 * shall not leave a trace in what all others are given.
 */
export function createRefresher (fastify: FastifyInstance, core: CacheCore, works: Works): Refresher {
  const tasks = new Map<string, RefreshTask>()
  const running = new Map<string, Promise<void>>()
  // What was refused to a request of nobody's.
  const refused = new LRUCache<string, true>({ max: MOST_REMEMBERED })

  async function run (name: string, request: FastifyRequest, state: RequestCache, entry: StoredResponse): Promise<void> {
    const { key, route } = state
    if (key === undefined) return
    const located = await locateResponse(core, key, await readingAs('suite', request, () => tagsFor(request, route)), request, state)
    // Another instance was quicker.
    if (located.response !== undefined && located.response.storedAt > entry.storedAt) return
    const fill = await works.tryEnter(located.place)
    if (fill === undefined) return
    const id = randomUUID()
    const task: RefreshTask = { key, located, fill, isUsed: false }
    tasks.set(id, task)
    try {
      const headers = { ...headersOf(request, state, entry), [HEADER]: id }
      const { statusCode } = await fastify.inject({ method: 'GET', url: request.originalUrl, headers, remoteAddress: request.socket.remoteAddress ?? request.ip })
      if (isRefused(statusCode, task)) refused.set(name, true)
    } finally {
      tasks.delete(id)
      fill.finish(undefined)
    }
  }

  return {
    refresh (request, state, entry) {
      const name = `${state.key?.id} ${JSON.stringify(entry.meta.vary)}`
      if (refused.has(name)) return false
      if (running.has(name)) return true
      const done = run(name, request, state, entry)
        .catch(error => request.log.warn({ plugin: 'cache', reason: reasonOf(error), route: request.routeOptions.url }, 'cache: not refreshed'))
        .finally(() => running.delete(name))
      running.set(name, done)
      return true
    },
    take (request) {
      const id = request.headers[HEADER]
      if (id === undefined) return undefined
      Reflect.deleteProperty(request.raw.headers, HEADER)
      const task = tasks.get(String(id))
      tasks.delete(String(id))
      return task
    },
    async settle () { await Promise.all(running.values()) }
  }
}

/** Whether it takes a request of a client's own to refresh it: another hook answered, the key is another one, or credentials are missing. */
function isRefused (status: number, { isUsed }: RefreshTask): boolean {
  if (status === 429 || status >= 500) return false
  return !isUsed || status === 401 || status === 403
}

function headersOf (request: FastifyRequest, { route, hasOwner }: RequestCache, entry: StoredResponse): Record<string, string> {
  // Whose answer it is may hang on any header, and it is for nobody else.
  const names = hasOwner ? Object.keys(request.headers).filter(name => !NOT_REPEATED.test(name)) : [...ROUTING, ...route.keysHost ? FORWARDED : [], ...route.vary, ...Object.keys(entry.meta.vary)]
  const headers: Record<string, string> = {}
  for (const name of names) {
    const value = joined(request.headers[name])
    if (value !== undefined) headers[name] = value
  }
  const cookies = hasOwner ? [] : keyedCookies(request, route)
  if (cookies.length > 0) headers['cookie'] ??= cookies.join('; ')
  return headers
}

function keyedCookies ({ headers }: FastifyRequest, { vary }: ResolvedRouteCache): string[] {
  const names = vary.filter(name => name.startsWith(COOKIE)).map(name => name.slice(COOKIE.length))
  return names.flatMap(name => {
    const value = cookieOf(headers.cookie, name)
    return value === undefined ? [] : [`${name}=${value}`]
  })
}
