import { invalidOptionError } from '../../shared/plugin/errors.js'

/** A number is the tag of its decimal digits: `7` and `'7'` are the same tag. */
export type Tag = string | number | bigint

/** Returns a tag as it is stored; undefined for a value that is no tag. No tag of a program's own begins with a NUL. */
export function readTag (tag: unknown): string | undefined {
  if (typeof tag === 'string') return tag === '' || tag.startsWith('\0') ? undefined : tag
  return Number.isFinite(tag) || typeof tag === 'bigint' ? String(tag) : undefined
}

/**
 * @param refuse - makes the error, where the tags are an argument and not an option
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
 */
export function checkTags (tags: unknown, name = 'tags', refuse = invalidOptionError): readonly string[] {
  if (!Array.isArray(tags)) throw refuse('cache', name, tags, 'a list of tags, such as [\'products\']')
  const read = tags.map(readTag)
  if (read.every(tag => tag !== undefined)) return read
  const at = read.indexOf(undefined)
  throw refuse('cache', `${name}[${at}]`, tags[at], 'a string that is not empty and does not begin with a NUL, or a finite number')
}

/** An entry has no more tags: whoever reads it reads their versions, all within one deadline. */
export const MAX_ENTRY_TAGS = 1000
