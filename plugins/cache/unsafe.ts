import type { FastifyReply, FastifyRequest } from 'fastify'
import { parseList } from 'structured-headers'
import { reasonOf } from '../shared/errors.js'
import type { CacheCore } from './core.js'
import { joined } from './headers.js'
import type { CacheKey } from './key.js'
import { keyOf } from './request-key.js'
import type { ResolvedRouteCache } from './resolve-options.js'

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

export function isUnsafe (method: string): boolean {
  return !SAFE.has(method)
}

/** The tag of a group of answers (RFC 9875). */
export function groupTag (group: string): string {
  return `group:${group}`
}

/** The groups that a field names: a list of strings; what else is in it is ignored (RFC 9875 §2). */
export function parseGroups (field: string | undefined): string[] {
  if (field === undefined) return []
  try {
    return parseList(field).map(([value]) => value).filter(value => typeof value === 'string')
  } catch {
    return []
  }
}

/** A route whose answers are stored. */
export interface Keyed {
  route: ResolvedRouteCache
  constraints: string
}

/**
 * What a successful answer makes invalid, before it is sent: the tags that the route names, the groups that the answer names, and
 * the URL that was changed, with those that it names on the same host (RFC 9111 §4.4).
 */
export async function invalidateBy (core: CacheCore, request: FastifyRequest, reply: FastifyReply, route: ResolvedRouteCache, stored: readonly Keyed[]): Promise<void> {
  if (reply.statusCode >= 400) return
  const tags = [...route.invalidatedBy(request)]
  const keys: CacheKey[] = []
  if (isUnsafe(request.method)) {
    tags.push(...parseGroups(joined(reply.getHeader('cache-group-invalidation'))).map(groupTag))
    for (const url of changedUrls(request, reply)) for (const each of stored) keys.push(...await keysOf(request, each, url))
  }
  try {
    const different = [...new Map(keys.map(key => [key.text, key])).values()]
    await Promise.all([tags.length > 0 ? core.invalidate(tags) : undefined, different.length > 0 ? core.remove(different) : undefined])
  } catch (error) {
    request.log.debug({ plugin: 'cache', tags, reason: reasonOf(error) }, 'cache: not invalidated yet, other instances may give stale answers until the store is reached')
  }
}

function changedUrls (request: FastifyRequest, reply: FastifyReply): string[] {
  const here = `${request.protocol}://${request.host}`
  const urls = [request.url]
  for (const name of ['location', 'content-location']) {
    const value = joined(reply.getHeader(name))
    if (value === undefined || !URL.canParse(value, here + request.url)) continue
    // Another host's answers are not this one's to invalidate.
    const { host, pathname, search } = new URL(value, here + request.url)
    if (host === new URL(here).host) urls.push(pathname + search)
  }
  return [...new Set(urls)]
}

/** Everybody's answer, and the one of whoever changed it. */
async function keysOf (request: FastifyRequest, { route, constraints }: Keyed, url: string): Promise<CacheKey[]> {
  const owner = await route.ownerOf?.(request)
  const owners = owner === undefined ? [undefined] : [undefined, owner]
  return owners.map(each => keyOf(request, route, each, constraints, url))
}
