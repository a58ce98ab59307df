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
import type { ResolvedRouteCache, RouteRequest } from './route-options.js'

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

export function isUnsafe (method: string): boolean {
  return !SAFE.has(method)
}

/** A route whose responses are stored. */
interface StoredRoute {
  mayMatch: (path: string) => boolean
  keysHost: boolean
}

/** What successful responses invalidate: tags that the route names, groups that the response names, and changed paths (RFC 9111 §4.4). */
export class Invalidations {
  readonly #core: TwoTierCache
  readonly #stored: StoredRoute[] = []
  /** Requests whose handlers were called. */
  readonly #begun = new WeakSet<FastifyRequest>()
  readonly #done = new WeakSet<FastifyRequest>()

  constructor (core: TwoTierCache) {
    this.#core = core
  }

  /** Adds a route whose responses are stored. */
  add (url: string, { key }: ResolvedRouteCache): void {
    this.#stored.push({ mayMatch: compilePattern(url), keysHost: key.host })
  }

  /** Whether a response of the route may invalidate something. */
  concern (request: FastifyRequest, { invalidates }: ResolvedRouteCache): boolean {
    return invalidates !== undefined || (this.#stored.length > 0 && isUnsafe(request.method))
  }

  /** For a stored response, which changes nothing. */
  skip (request: FastifyRequest): void {
    this.#done.add(request)
  }

  /** The handler is called next: from now on the request may change something. */
  begin (request: FastifyRequest): void {
    this.#begun.add(request)
  }

  /** Sees to responses that pass no `onSend` hook: of `reply.hijack()` and `reply.raw.end()`, and where the client has gone. */
  watch (request: FastifyRequest, reply: FastifyReply, route: ResolvedRouteCache): void {
    const { raw } = reply
    const { clock } = this.#core
    const run = (): void => { this.start(request, reply, route)?.catch(() => {}) }
    const hasBegun = (): boolean => this.#begun.has(request)
    raw.once('close', () => {
      if (this.#done.has(request)) return
      // A client that leaves while a hook or the handler checks its credentials must invalidate nothing: the status tells.
      const isKnown = raw.writableEnded || raw.headersSent || (reply.sent && hasBegun())
      if (isKnown) run()
      if (raw.writableEnded) return
      // The handler of a client that has gone may still be at work, and send nothing.
      clock.setTimeout(() => { if (hasBegun() && (isKnown || !this.#done.has(request))) run() }, MAX_WAIT_MS).unref()
    })
  }

  /**
   * Invalidates what a response changes. It never rejects: the handler has done its work, and the client must not repeat it.
   *
   * @returns undefined where there is nothing to wait for
   */
  start (request: FastifyRequest, reply: FastifyReply, route: ResolvedRouteCache): Promise<void> | undefined {
    this.#done.add(request)
    // A redirect that a hook sends in place of the handler, as to a login page, changes nothing.
    const status = sentStatus(reply)
    if (status >= 400 || (status >= 300 && !this.#begun.has(request))) return undefined
    const tags = isUnsafe(request.method) ? [...this.#pathTags(request, reply), ...parseGroups(fieldOf(reply, 'cache-group-invalidation')).map(groupTag)] : []
    if (route.invalidates !== undefined) return namedTags(request, route).then(named => this.#invalidate(request, [...tags, ...named]))
    return tags.length === 0 ? undefined : this.#invalidate(request, tags)
  }

  async #invalidate (request: FastifyRequest, tags: readonly string[]): Promise<void> {
    if (tags.length === 0) return
    try {
      await this.#core.invalidate([...new Set(tags)])
    } catch (error) {
      request.log.debug({ plugin: 'cache', tags, reason: reasonOf(error) }, 'cache: not invalidated yet, other instances may give stale answers until the store is reached')
    }
  }

  #pathTags (request: FastifyRequest, reply: FastifyReply): string[] {
    // A URL of the app's public face may be another one than that of the route.
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

async function namedTags (request: FastifyRequest, { invalidates }: ResolvedRouteCache): Promise<string[]> {
  const told = { plugin: 'cache', route: request.routeOptions.url }
  try {
    const given = await invalidates?.(request as RouteRequest)
    const list: unknown[] = Array.isArray(given) ? given : [given]
    const tags = list.map(readTag).filter(tag => tag !== undefined)
    if (tags.length < list.length || !Array.isArray(given)) request.log.error({ ...told, reason: 'not a list of tags' }, 'cache: config.cache.invalidates must return a list of tags: strings that are not empty, or numbers. What is none of these was not invalidated')
    return tags
  } catch (error) {
    request.log.error({ ...told, reason: reasonOf(error) }, 'cache: config.cache.invalidates failed, so the tags that it names were not invalidated: make it return a list of tags')
    return []
  }
}

// Fields that name further URLs that a request has changed.
const NAMING = ['location', 'content-location']

function changedUrls (request: FastifyRequest, reply: FastifyReply): string[] {
  const { url, originalUrl } = request
  const urls = url === originalUrl ? [url] : [url, originalUrl]
  if (!reply.raw.headersSent && !NAMING.some(name => reply.hasHeader(name))) return urls
  const here = `${request.protocol}://${request.host}`
  const base = here + withoutOrigin(originalUrl)
  for (const name of NAMING) {
    const value = fieldOf(reply, name)
    if (value === undefined || !URL.canParse(value, base)) continue
    // Another host's answers are not this one's to invalidate.
    const { host, pathname } = new URL(value, base)
    if (host === new URL(here).host) urls.push(pathname)
  }
  return urls
}

/** A field of a reply, also of one that a handler wrote by `reply.raw.writeHead`, which Node.js keeps as text only. */
function fieldOf (reply: FastifyReply, name: string): string | undefined {
  const header: unknown = Reflect.get(reply.raw, '_header')
  const written = typeof header === 'string' ? new RegExp(`\\r\\n${name}: *(.*)\\r\\n`, 'i').exec(header)?.[1] : undefined
  return joined(reply.getHeader(name)) ?? written
}

/** Returns the status that was sent, also where the handler wrote to the HTTP/2 stream, of which the raw response does not know. */
export function sentStatus (reply: FastifyReply): number {
  return Number(streamOf(reply)?.sentHeaders?.[':status'] ?? reply.raw.statusCode)
}

export function streamOf ({ raw }: FastifyReply): ServerHttp2Stream | undefined {
  return 'stream' in raw ? raw.stream as ServerHttp2Stream : undefined
}

/** What decides whether a response that is not stored removes the stored one in whose place it was made. */
export interface WithdrawalInput {
  status: number
  /** Why it is not stored. */
  why: string
  /** Whether it was made in the background, by a request that has neither credentials nor a session of a client. */
  isBackground: boolean
  /** Whether the stored response is of one owner alone. */
  hasOwner: boolean
  /** Whether it may depend on what this client alone sent. */
  isOfTheClient: boolean
}

// The resource is gone, or may not be served any longer (RFC 9110 §15.5.5, §15.5.11, RFC 7725).
const GONE = new Set([404, 410, 451])

const REFUSED = new Set([401, 403])

// Reasons that lie in the client who asked.
const OF_THE_CLIENT = /^(?:authorization|session|user|reads .*)$/

/**
 * Whether the source has taken back what is stored. Any full response but a failure has (RFC 9111 §4.3.3): the stored one is
 * outdated, and serving it on would hide that. Not so a response that is about the client alone: an error of its request,
 * missing credentials, a 304 to its own conditions, or its own credentials, session or headers as the reason. Other clients
 * share the stored response, and one client must not decide about it.
 */
export function isWithdrawn ({ status, why, isBackground, hasOwner, isOfTheClient }: WithdrawalInput): boolean {
  if (isOfTheClient) return false
  if (GONE.has(status)) return true
  if (hasOwner && REFUSED.has(status)) return true
  return status < 400 && status !== 304 && why !== 'error' && (isBackground || !OF_THE_CLIENT.test(why))
}

export function isGone (status: number): boolean {
  return GONE.has(status)
}
