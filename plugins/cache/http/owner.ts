import type { FastifyRequest } from 'fastify'
import { describe } from '../../shared/plugin/errors.js'
import { isNobody, isNumericId } from '../../shared/plugin/ids.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { InvalidValueError } from '../errors.js'

/** The id of a response's owner. A promise is awaited; the last five mean that there is no owner. */
export type OwnerId = string | number | bigint | null | undefined | false

const ALLOWED = 'a string, a finite number or a bigint, such as request.session.userId; a whole number above 2^53 as a string or a bigint; undefined or null for no owner'

/**
 * Returns a function that names the owner of a request's response, or undefined where there is none.
 *
 * A string and a number are different owners, as one may come from the client and the other from a database.
 *
 * @param where - the route, for the error
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_VALUE` for a value that could stand for several owners, such as an object
 */
export function createOwnerOf (ownerOf: (request: FastifyRequest) => MaybePromise<OwnerId>, where: string): (request: FastifyRequest) => MaybePromise<string | undefined> {
  const name = (id: unknown): string | undefined => {
    if (isNobody(id)) return undefined
    if (typeof id === 'string') return id.startsWith('\0') ? `\0=${id}` : id
    // No string owner is named like this.
    if (isNumericId(id)) return `\0${id}`
    throw new InvalidValueError(`config.cache.private of ${where}`, describe(id), ALLOWED)
  }
  return request => whenReady<OwnerId, string | undefined>(ownerOf(request), name)
}
