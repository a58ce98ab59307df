import { invalidOptionError } from '../../shared/plugin/errors.js'

/** A tag of an entry. A number equals the string of its decimal digits: `7` and `'7'` are the same tag. */
export type Tag = string | number | bigint

/** Returns a tag as it is stored, or undefined for a value that is not a tag. */
export function readTag (tag: unknown): string | undefined {
  if (typeof tag === 'string') return tag === '' || tag.startsWith('\0') ? undefined : tag
  return Number.isFinite(tag) || typeof tag === 'bigint' ? String(tag) : undefined
}

/**
 * Checks a list of tags.
 *
 * @param refuse - creates the error for tags that are an argument
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
 */
export function checkTags (tags: unknown, name = 'tags', refuse = invalidOptionError): readonly string[] {
  if (!Array.isArray(tags)) throw refuse('cache', name, tags, 'a list of tags, such as [\'products\']')
  const read = tags.map(readTag)
  if (read.every(tag => tag !== undefined)) return read
  const at = read.indexOf(undefined)
  const allowed = 'a string that is not empty and does not begin with a NUL, or a finite number'
  throw refuse('cache', `${name}[${at}]`, tags[at], allowed)
}

/** The maximum number of an entry's tags, as each read of it reads their versions within one deadline. */
export const MAX_ENTRY_TAGS = 1000
