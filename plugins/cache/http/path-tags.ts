import type { FastifyRequest } from 'fastify'
import { hashId } from '../../shared/plugin/keys.js'
import { isPromise, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { ResolvedRouteCache } from './route-options.js'

// A longer path is named by its digest: a client chooses its length, and every entry names it.
const LONGEST_PATH = 100
/** Begins the tag of a path. No tag of a program's own begins with a NUL. */
const PATH = '\0/'

/**
 * The tag that every stored response of a path has, whatever its query, its variant and its owner, so that a change of the
 * path invalidates all of them (RFC 9111 §4.4).
 *
 * @param host - where hosts have responses of their own
 */
export function pathTag (path: string, host?: string): string {
  const name = host === undefined ? path.slice(1) : `/${host.toLowerCase()}${path}`
  return PATH + (name.length > LONGEST_PATH ? `#${hashId(name)}` : name)
}

/** Returns the path that a tag names, for people; undefined for any other tag. */
export function pathOfTag (tag: string): string | undefined {
  return tag.startsWith(PATH) ? tag.slice(1) : undefined
}

/** The tags of a response, as far as they are known before it is made. The suite must be the reader of the request. */
export function tagsFor (request: FastifyRequest, route: ResolvedRouteCache): MaybePromise<readonly string[]> {
  const paths = pathTagsOf(request, route)
  const named = route.tagsOf(request)
  if (isPromise(named)) return named.then(known => [...known, ...paths])
  return named.length === 0 ? paths : [...named, ...paths]
}

/** The tags of a request's path: as it was sent, and as `rewriteUrl` made it. */
function pathTagsOf (request: FastifyRequest, { keysHost }: ResolvedRouteCache): readonly string[] {
  const { url, originalUrl } = request
  const host = keysHost ? request.host : undefined
  const tag = pathTag(canonicalPath(url), host)
  if (originalUrl === url) return [tag]
  const original = pathTag(canonicalPath(originalUrl), host)
  return original === tag ? [tag] : [tag, original]
}

const ABSOLUTE = /^[a-z][\w+.-]*:\/\/[^/?#]*/i
// Most paths are spelled so already, and take this one step.
const CANONICAL = /^(?:\/|(?:\/[a-z0-9_-]+)+)(?=[?#;]|$)/

/**
 * The path of a URL in one spelling. Spellings that may reach the same route with the same parameters, under any option of
 * the router, share a result; so may different resources. It is never a part of a key.
 */
export function canonicalPath (url: string): string {
  const canonical = CANONICAL.exec(url)
  if (canonical !== null) return canonical[0]
  const path = withoutOrigin(url)
  const end = path.search(/[?#;]/)
  const decoded = decodePath(end === -1 ? path : path.slice(0, end)).toLowerCase().replaceAll(/[/\\]+/g, '/')
  return decoded.length > 1 && decoded.endsWith('/') ? decoded.slice(0, -1) : decoded
}

/** The target of a request without scheme and host, which a client may send as well (RFC 9112 §3.2.2). */
export function withoutOrigin (url: string): string {
  const path = url.replace(ABSOLUTE, '')
  return path.startsWith('/') ? path : `/${path}`
}

/**
 * Returns the label of a response as patterns name it: without scheme and host, with escapes decoded and slashes that are not
 * doubled. A client chooses the spelling of a path, and must not keep its response from being removed.
 */
export function plainLabel (label: string): string {
  const at = label.indexOf('?')
  const path = at === -1 ? label : label.slice(0, at)
  if (path.startsWith('/') ? !/%|\/\//.test(path) : !ABSOLUTE.test(path)) return label
  return decodePath(withoutOrigin(path)).replaceAll(/\/{2,}/g, '/') + (at === -1 ? '' : label.slice(at))
}

/** An encoded slash stays encoded: it separates no segments. */
function decodePath (path: string): string {
  if (!path.includes('%')) return path
  const kept = path.replaceAll(/%2f/gi, '%252f')
  try {
    return decodeURIComponent(kept)
  } catch {
    return path
  }
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
  const closed = segments.filter(segment => segment !== '').map(segment => isParameter(segment) ? '(?:/[^/]*)?' : fixed(segment)).join('')
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
