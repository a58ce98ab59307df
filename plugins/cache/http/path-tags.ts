import type { FastifyRequest } from 'fastify'
import { isPromise, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { pathTag, canonicalPath } from '../store/path-tag.js'
import type { ResolvedRouteCache } from './route-options.js'

/**
 * Returns the tags of a response that are known before the handler runs. The suite must be the reader of the request.
 */
export function tagsFor (request: FastifyRequest, route: ResolvedRouteCache): MaybePromise<readonly string[]> {
  const paths = pathTagsOf(request, route)
  const named = route.tags(request)
  if (isPromise(named)) return named.then(known => [...known, ...paths])
  return named.length === 0 ? paths : [...named, ...paths]
}

/** Returns the tags of a request's path: as the client sent it, and as `rewriteUrl` changed it. */
function pathTagsOf (request: FastifyRequest, { key }: ResolvedRouteCache): readonly string[] {
  const { url, originalUrl } = request
  const host = key.host ? request.host : undefined
  const tag = pathTag(canonicalPath(url), host)
  if (originalUrl === url) return [tag]
  const original = pathTag(canonicalPath(originalUrl), host)
  return original === tag ? [tag] : [tag, original]
}

/**
 * Compiles the URL of a route as it was registered.
 *
 * @returns whether a canonical path may reach the route; it may return true for a path that does not
 */
export function compilePattern (url: string): (path: string) => boolean {
  // After a wildcard, a regular expression or a delimiter anything may follow.
  const open = url.search(/[*(;#]/)
  const segments = (open === -1 ? url : url.slice(0, open)).split('/').slice(1)
  const last = open === -1 ? undefined : segments.pop() ?? ''
  // A parameter may be empty, also where duplicate slashes are one.
  const closed = segments.filter(segment => segment !== '')
    .map(segment => isParameter(segment) ? '(?:/[^/]*)?' : fixed(segment)).join('')
  const end = last === undefined ? '/?$' : last === '' || isParameter(last) ? '(?:/|$)' : fixed(last)
  const pattern = new RegExp(`^${closed}${end}`)
  return path => pattern.test(path)
}

/** Two colons are one that is meant as it is. */
function isParameter (segment: string): boolean {
  return segment.replaceAll('::', '').includes(':')
}

function fixed (segment: string): string {
  return canonicalPath(`/${segment.replaceAll('::', ':')}`).replaceAll(/[$()*+.?[\\\]^{|}]/g, '\\$&')
}
