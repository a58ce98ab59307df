import { parseList } from 'structured-headers'

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
