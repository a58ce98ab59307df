import { parseList } from 'structured-headers'

/** Returns the tag of a group of responses. */
export function groupTag (group: string): string {
  return `group:${group}`
}

/**
 * Returns the groups that a `Cache-Groups` or `Cache-Group-Invalidation` field names.
 *
 * Members of the list that are not strings are ignored, and so is a field that cannot be parsed.
 *
 * @see RFC 9875 §2
 */
export function parseGroups (field: string | undefined): string[] {
  if (field === undefined) return []
  try {
    return parseList(field).map(([value]) => value).filter(value => typeof value === 'string')
  } catch {
    return []
  }
}
