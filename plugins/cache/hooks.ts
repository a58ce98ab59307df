import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest, preHandlerAsyncHookHandler } from 'fastify'
import { mayLookUp, mayStore, matchesEtag, storedHeaders } from './cacheability.js'
import type { Coalescer } from './coalesce.js'
import type { CacheCore } from './core.js'
import { ageOf } from './freshness.js'
import { responseKey } from './key.js'
import type { ResolvedCacheOptions, ResolvedRouteCache } from './options.js'
import type { Entry } from './store.js'

export type CacheOutcome = 'HIT' | 'MISS' | 'STALE' | 'BYPASS'

/** What the cache knows of a request under way. */
export interface RequestCache {
  route: ResolvedRouteCache
  outcome: CacheOutcome
  /** Where its answer is to be stored; undefined: nowhere. */
  key: string | undefined
  hasOwner: boolean
  startedAt: number
  versions: Record<string, string> | undefined
  extraTags: string[]
  /** Whether its answer is on its way to the store. */
  storing: boolean
  /** Lets those go on who wait for this answer. */
  end: () => void
}

// A follower does not wait longer for the one before it.
const PATIENCE_MS = 5000

export interface ResponseCache {
  lookUp (route: ResolvedRouteCache): preHandlerAsyncHookHandler
  onSend (request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown>
  release (request: FastifyRequest): void
}

export function createResponseCache (core: CacheCore, coalescer: Coalescer, options: ResolvedCacheOptions): ResponseCache {
  const states = new WeakMap<FastifyRequest, RequestCache>()

  function begin (request: FastifyRequest, route: ResolvedRouteCache): RequestCache {
    const owner = route.ownerOf?.(request)
    const state: RequestCache = {
      route, outcome: 'BYPASS', key: undefined, hasOwner: owner !== undefined, startedAt: Date.now(), versions: undefined, extraTags: [], storing: false, end: () => {}
    }
    states.set(request, state)
    request.cacheState = state
    const asksForOwner = route.ownerOf !== undefined
    if (route.stores && (!asksForOwner || state.hasOwner) && mayLookUp(request, state.hasOwner)) {
      const [path = '', query = ''] = splitUrl(request.url)
      const vary = route.vary.map(name => [name, String(request.headers[name] ?? '')] as const)
      state.key = responseKey({ path, query, vary, owner: owner === undefined ? undefined : String(owner) })
    }
    return state
  }

  /** @returns whether the answer has been given */
  async function answer (request: FastifyRequest, reply: FastifyReply, state: RequestCache, key: string): Promise<boolean> {
    const found = await core.read(key)
    if (found === undefined) return false
    // Of all who find it stale, one makes it anew.
    if (found.freshness === 'stale' && request.method === 'GET' && await core.claimRefresh(key)) return false
    state.outcome = found.freshness === 'fresh' ? 'HIT' : 'STALE'
    state.key = undefined
    sendEntry(request, reply, found.entry)
    return true
  }

  return {
    lookUp: route => async (request, reply) => {
      const state = begin(request, route)
      const { key } = state
      if (key === undefined) return
      if (await answer(request, reply, state, key)) return reply
      const work = coalescer.enter(key, PATIENCE_MS)
      if ('wait' in work) {
        core.stats.coalesced++
        await work.wait
        if (await answer(request, reply, state, key)) return reply
      } else {
        state.end = work.end
      }
      state.outcome = 'MISS'
      // Before the handler reads anything: what is invalidated from now on makes its answer invalid too.
      state.versions = await core.versions(route.tagsOf(request))
    },

    async onSend (request, reply, payload) {
      const state = states.get(request)
      if (state === undefined) return payload
      const { key, route } = state
      if (route.stores) reply.header('x-cache', state.outcome)
      if (reply.statusCode < 400) await invalidate(core, request, route.invalidatedBy(request))
      if (state.outcome === 'HIT' || state.outcome === 'STALE') return payload
      const body = typeof payload === 'string' ? Buffer.from(payload) : Buffer.isBuffer(payload) ? payload : undefined
      if (key === undefined || body === undefined || body.length > options.maxEntrySize || !mayStore(request, reply, state.hasOwner)) return payload
      const etag = String(reply.getHeader('etag') ?? makeEtag(body))
      reply.header('etag', etag)
      const versions = await allVersions(core, state)
      if (versions !== undefined) {
        const entry: Entry = {
          body, meta: { headers: storedHeaders(reply) }, storedAt: state.startedAt, ttl: route.ttl, stale: route.stale, tags: versions
        }
        state.storing = true
        core.write(key, entry).then(state.end, state.end)
      }
      return matchesEtag(request.headers['if-none-match'], etag) ? notModified(reply) : payload
    },

    release (request) {
      const state = states.get(request)
      if (state !== undefined && !state.storing) state.end()
    }
  }
}

function splitUrl (url: string): [string, string] {
  const at = url.indexOf('?')
  return at === -1 ? [url, ''] : [url.slice(0, at), url.slice(at + 1)]
}

function sendEntry (request: FastifyRequest, reply: FastifyReply, entry: Entry): void {
  const headers = entry.meta['headers']
  if (typeof headers === 'object' && headers !== null) {
    for (const [name, value] of Object.entries(headers)) if (typeof value === 'string') reply.header(name, value)
  }
  reply.header('age', ageOf(entry, Date.now()))
  if (matchesEtag(request.headers['if-none-match'], String(reply.getHeader('etag')))) {
    reply.send(notModified(reply))
  } else {
    // To HEAD, Node.js sends the headers of it alone.
    reply.send(entry.body)
  }
}

/** RFC 9110 §15.4.5. */
function notModified (reply: FastifyReply): string {
  reply.code(304).removeHeader('content-length').removeHeader('content-type')
  return ''
}

function makeEtag (body: Buffer): string {
  return `"${createHash('sha256').update(body).digest('base64url').slice(0, 27)}"`
}

// Clocks of instances differ: a tag that was invalidated a moment before the handler began may have been so after.
const CLOCK_MARGIN_MS = 1000

/** The versions of the route's tags, and of those that the handler named, unless one of these changed meanwhile. */
async function allVersions (core: CacheCore, { versions, extraTags, startedAt }: RequestCache): Promise<Record<string, string> | undefined> {
  if (versions === undefined || extraTags.length === 0) return versions
  const extra = await core.versions(extraTags)
  if (extra === undefined) return undefined
  const changed = extraTags.some(tag => Number.parseInt(extra[tag] ?? '', 10) > startedAt - CLOCK_MARGIN_MS)
  return changed ? undefined : { ...extra, ...versions }
}

async function invalidate (core: CacheCore, request: FastifyRequest, tags: readonly string[]): Promise<void> {
  if (tags.length === 0) return
  try {
    await core.invalidate(tags)
  } catch (error) {
    request.log.warn({ tags, reason: error instanceof Error ? error.message : String(error) }, 'cache: not invalidated, stale answers are possible until their ttl ends')
  }
}
