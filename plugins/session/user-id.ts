import { describe } from '../shared/plugin/errors.js'
import { isNoId, isNumericId } from '../shared/data/ids.js'
import { digestOf } from './digest.js'
import { InvalidValueError } from './errors.js'

/** A user's id. A number and the string of its digits name the same user. */
export type UserId = string | number | bigint

export const USER_ID_ALLOWED =
  'a string that is not empty, a finite number or a bigint; a whole number above 2^53 as a string or a bigint'

/** Whether a value names one user. All objects have the same text, and larger whole numbers are rounded. */
export function isUserId (id: unknown): id is UserId {
  if (typeof id === 'string') return id !== ''
  return isNumericId(id)
}

/**
 * Returns the digest of the id that the option `userId` found in a session; undefined without a user.
 *
 * @throws `FST_REDIS_SUITE_SESSION_INVALID_VALUE`
 */
export function digestOfUserId (id: unknown): string | undefined {
  if (isNoId(id)) return undefined
  if (!isUserId(id)) throw new InvalidValueError(describe(id), `${USER_ID_ALLOWED}; undefined or null without a user`)
  return digestOf(String(id))
}
