import type { ServerHttp2Stream } from 'node:http2'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { reasonOf } from '../../shared/plugin/errors.js'
import { groupTag, parseGroups } from '../rfc/groups.js'
import { joined } from '../rfc/stored-headers.js'
import { canonicalPath, pathTag, withoutOrigin } from '../store/path-tag.js'
import { readTag } from '../store/tags.js'
import { MAX_WAIT_MS } from '../tiers/coalescing.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { compilePattern } from './path-tags.js'
import { isOfTheClient } from './reads/unkeyed-headers.js'
import type { Filling, RequestCache } from './request-state.js'
import type { ResolvedRouteCache, RouteRequest } from './route-options.js'

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

/** Whether a method may change a resource (RFC 9110 §9.2.1). */
export function isUnsafe (method: string): boolean {
  return !SAFE_METHODS.has(method)
}

/** A route whose responses are stored. */
interface StoredRoute {
  mayMatch: (path: string) => boolean
  keysHost: boolean
}

/**
 * Invalidates what successful responses change: tags that the route names, groups that the response names (RFC 9875),
 * and the paths of unsafe requests (RFC 9111 §4.4).
 */
export class Invalidations {
  readonly #core: TwoTierCache
  readonly #stored: StoredRoute[] = []
  /** Requests whose handlers were called. */
  readonly #handled = new WeakSet<FastifyRequest>()
  readonly #done = new WeakSet<FastifyRequest>()

  constructor (core: TwoTierCache) {
    this.#core = core
  }

  /** Adds a route whose responses are stored. */
  add (url: string, { key }: ResolvedRouteCache): void {
    this.#stored.push({ mayMatch: compilePattern(url), keysHost: key.host })
  }

  /** Whether a response of the route may invalidate something. */
  mayInvalidate (request: FastifyRequest, { invalidates }: ResolvedRouteCache): boolean {
    return invalidates !== undefined || (this.#stored.length > 0 && isUnsafe(request.method))
  }

  /** Ignores a request that a stored response answers: it changes nothing. */
  skip (request: FastifyRequest): void {
    this.#done.add(request)
  }

  /** Records that the handler is called next: from now on the request may change something. */
  recordHandler (request: FastifyRequest): void {
    this.#handled.add(request)
  }

  /**
   * Invalidates also for responses that reach no `onSend` hook: those of `reply.hijack()` and `reply.raw.end()`, and
   * disconnected clients.
   */
  watchClose (request: FastifyRequest, reply: FastifyReply, route: ResolvedRouteCache): void {
    const { raw } = reply
    const { clock } = this.#core
    const invalidate = (): void => { this.invalidate(request, reply, route)?.catch(() => {}) }
    const isHandled = (): boolean => this.#handled.has(request)
    raw.once('close', () => {
      if (this.#done.has(request)) return
      // A client that disconnects while a hook or the handler checks its credentials must invalidate nothing: the
      // status decides.
      const isKnown = raw.writableEnded || raw.headersSent || (reply.sent && isHandled())
      if (isKnown) invalidate()
      if (raw.writableEnded) return
      // The handler may still be running, and send nothing.
      clock.setTimeout(() => {
        if (isHandled() && (isKnown || !this.#done.has(request))) invalidate()
      }, MAX_WAIT_MS).unref()
    })
  }

  /**
   * Invalidates what a response changes. It never rejects: the handler has done its work, and the client must not
   * repeat it.
   *
   * @returns undefined where there is nothing to wait for
   */
  invalidate (request: FastifyRequest, reply: FastifyReply, route: ResolvedRouteCache): Promise<void> | undefined {
    this.#done.add(request)
    // RFC 9111 §4.4: only a non-error response invalidates. A redirect that a hook sends in place of the handler, as to
    // a login page, changes nothing.
    const status = sentStatus(reply)
    if (status >= 400 || (status >= 300 && !this.#handled.has(request))) return undefined
    const tags = isUnsafe(request.method) ? [...this.#pathTags(request, reply), ...invalidatedGroups(reply)] : []
    if (route.invalidates !== undefined) {
      return namedTags(request, route).then(named => this.#invalidateTags(request, [...tags, ...named]))
    }
    return tags.length === 0 ? undefined : this.#invalidateTags(request, tags)
  }

  async #invalidateTags (request: FastifyRequest, tags: readonly string[]): Promise<void> {
    if (tags.length === 0) return
    try {
      await this.#core.invalidate([...new Set(tags)])
    } catch (error) {
      request.log.debug({ plugin: 'cache', tags, reason: reasonOf(error) },
        'cache: not invalidated yet; other instances may serve stale responses until the store is available')
    }
  }

  #pathTags (request: FastifyRequest, reply: FastifyReply): string[] {
    // With `rewriteUrl` the public URL may differ from that of the route.
    const isRewritten = Reflect.get(request.raw, 'originalUrl') !== undefined
    const tags: string[] = []
    for (const url of changedUrls(request, reply)) {
      const path = canonicalPath(url)
      for (const { mayMatch, keysHost } of this.#stored) {
        if (isRewritten || mayMatch(path)) tags.push(pathTag(path, keysHost ? request.host : undefined))
      }
    }
    return tags
  }
}

/** RFC 9875 §3 */
function invalidatedGroups (reply: FastifyReply): string[] {
  return parseGroups(fieldOf(reply, 'cache-group-invalidation')).map(groupTag)
}

/** Returns the tags that the route's option `invalidates` names. */
async function namedTags (request: FastifyRequest, { invalidates }: ResolvedRouteCache): Promise<string[]> {
  const bindings = { plugin: 'cache', route: request.routeOptions.url }
  try {
    const given = await invalidates?.(request as RouteRequest)
    const list: unknown[] = Array.isArray(given) ? given : [given]
    const tags = list.map(readTag).filter(tag => tag !== undefined)
    if (tags.length < list.length || !Array.isArray(given)) {
      request.log.error({ ...bindings, reason: 'not a list of tags' },
        'cache: config.cache.invalidates must return a list of tags: strings that are not empty, or numbers. ' +
        'Other values were ignored')
    }
    return tags
  } catch (error) {
    request.log.error({ ...bindings, reason: reasonOf(error) },
      'cache: config.cache.invalidates failed, so its tags were not invalidated: make it return a list of tags')
    return []
  }
}

/** Fields that name further URLs that a request has changed (RFC 9111 §4.4). */
const URL_FIELDS = ['location', 'content-location']

function changedUrls (request: FastifyRequest, reply: FastifyReply): string[] {
  const { url, originalUrl } = request
  const urls = url === originalUrl ? [url] : [url, originalUrl]
  if (!reply.raw.headersSent && !URL_FIELDS.some(name => reply.hasHeader(name))) return urls
  const origin = `${request.protocol}://${request.host}`
  const base = origin + withoutOrigin(originalUrl)
  for (const name of URL_FIELDS) {
    const value = fieldOf(reply, name)
    if (value === undefined || !URL.canParse(value, base)) continue
    // RFC 9111 §4.4: a response must not invalidate another host's responses.
    const { host, pathname } = new URL(value, base)
    if (host === new URL(origin).host) urls.push(pathname)
  }
  return urls
}

/**
 * Returns a field of a reply, also one that a handler wrote by `reply.raw.writeHead`, which Node.js stores as text
 * only.
 */
function fieldOf (reply: FastifyReply, name: string): string | undefined {
  const header: unknown = Reflect.get(reply.raw, '_header')
  const written = typeof header === 'string'
    ? new RegExp(`\\r\\n${name}: *(.*)\\r\\n`, 'i').exec(header)?.[1]
    : undefined
  return joined(reply.getHeader(name)) ?? written
}

/**
 * Returns the status that was sent, also where the handler wrote to the HTTP/2 stream, which the raw response does not
 * notice.
 */
export function sentStatus (reply: FastifyReply): number {
  return Number(streamOf(reply)?.sentHeaders?.[':status'] ?? reply.raw.statusCode)
}

export function streamOf ({ raw }: FastifyReply): ServerHttp2Stream | undefined {
  return 'stream' in raw ? raw.stream as ServerHttp2Stream : undefined
}

/** The resource is gone, or may not be served any longer (RFC 9110 §15.5.5, §15.5.11, RFC 7725 §3). */
const GONE = new Set([404, 410, 451])
const DENIED = new Set([401, 403])
/** Reasons not to store a response that are about the requesting client. */
const ABOUT_THE_CLIENT = /^(?:authorization|session|user|reads .*)$/

export function isGone (status: number): boolean {
  return GONE.has(status)
}

/**
 * Removes the stored response that a response replaces which is not stored.
 *
 * Any full response but a server error shows that the stored one is outdated (RFC 9111 §4.3.3). A response that is
 * about the client alone does not: an error of its request, missing credentials, a 304 to its own conditions, or its
 * own credentials, session or headers as the reason. Other clients share the stored response.
 *
 * @param why - the reason why the response is not stored
 */
export function withdrawReplaced (
  state: RequestCache, { found, isBackground }: Filling, status: number, why: string
): void {
  const { cache: { core }, hasOwner } = state
  if (isOfTheClient(state)) return
  const isReplaced = status < 400 && status !== 304 && why !== 'error' && (isBackground || !ABOUT_THE_CLIENT.test(why))
  if (isReplaced || GONE.has(status) || (hasOwner && DENIED.has(status))) core.withdraw(found.place)
}
