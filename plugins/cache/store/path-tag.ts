import { hashId } from '../../shared/plugin/keys.js'

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
