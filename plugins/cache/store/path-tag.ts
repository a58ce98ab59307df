import { hashId } from '../../shared/plugin/keys.js'

// A longer path is replaced by its digest: clients choose its length, and every entry contains it.
const MAX_PATH_LENGTH = 100

/** The prefix of path tags. No tag of a program begins with a NUL. */
const PATH = '\0/'

/**
 * Returns the tag of all stored responses of a path, with any query, variant and owner, so that a change of the path
 * invalidates all of them.
 *
 * @param host - where the host is a part of the key
 * @see RFC 9111 §4.4
 */
export function pathTag (path: string, host?: string): string {
  const name = host === undefined ? path.slice(1) : `/${host.toLowerCase()}${path}`
  return PATH + (name.length > MAX_PATH_LENGTH ? `#${hashId(name)}` : name)
}

/** Returns the readable path of a path tag, or undefined for any other tag. */
export function pathOfTag (tag: string): string | undefined {
  return tag.startsWith(PATH) ? tag.slice(1) : undefined
}

const ABSOLUTE = /^[a-z][\w+.-]*:\/\/[^/?#]*/i

// Most paths are canonical, and take only this step.
const CANONICAL = /^(?:\/|(?:\/[a-z0-9_-]+)+)(?=[?#;]|$)/

/**
 * Returns the path of a URL in one spelling. Spellings that may reach the same route with the same parameters, under
 * any option of the router, have one result. Different resources may share it too, so it is never a part of a key.
 */
export function canonicalPath (url: string): string {
  const canonical = CANONICAL.exec(url)
  if (canonical !== null) return canonical[0]
  const path = withoutOrigin(url)
  const end = path.search(/[?#;]/)
  const decoded = decodePath(end === -1 ? path : path.slice(0, end)).toLowerCase().replaceAll(/[/\\]+/g, '/')
  return decoded.length > 1 && decoded.endsWith('/') ? decoded.slice(0, -1) : decoded
}

/** Returns the target of a request without scheme and host, which clients may send (RFC 9112 §3.2.2). */
export function withoutOrigin (url: string): string {
  const path = url.replace(ABSOLUTE, '')
  return path.startsWith('/') ? path : `/${path}`
}

/**
 * Returns the label of a response in the spelling of patterns: without scheme and host, with decoded escapes and single
 * slashes. A client that chooses another spelling must not keep its response from being removed.
 */
export function plainLabel (label: string): string {
  const at = label.indexOf('?')
  const path = at === -1 ? label : label.slice(0, at)
  if (path.startsWith('/') ? !/%|\/\//.test(path) : !ABSOLUTE.test(path)) return label
  return decodePath(withoutOrigin(path)).replaceAll(/\/{2,}/g, '/') + (at === -1 ? '' : label.slice(at))
}

/** Decodes escapes but encoded slashes, as they separate no segments. */
function decodePath (path: string): string {
  if (!path.includes('%')) return path
  const kept = path.replaceAll(/%2f/gi, '%252f')
  try {
    return decodeURIComponent(kept)
  } catch {
    return path
  }
}
