import type { FastifyRequest } from 'fastify'
import { routeOf } from '../shared/plugin/errors.js'
import { isExactNumber, isNumericId } from '../shared/plugin/ids.js'
import { InvalidValueError, ScopeRequiredError } from './errors.js'

/** What clients send in place of credentials that they do not have (`Og==` is an empty name and password): one owner for all of them. */
const NO_CREDENTIALS = /^(?:(?:basic|bearer|token)\b\s*)?(?:undefined|null|none|false|nan|og==|\[object \w+\])?$/i

/**
 * Makes the scope of a route that has none of its own. It refuses a caller that it cannot tell apart, and logs that once.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_SCOPE_REQUIRED`, from the function
 */
export function createDefaultScope (): (request: FastifyRequest) => string {
  let isLogged = false
  return request => {
    const route = routeOf(request)
    const owner = ownerOf(request, route)
    if (owner !== undefined) return owner
    if (!isLogged) request.log.warn({ plugin: 'idempotency', route }, 'idempotency: a request with a key was refused, as its caller is unknown: log callers in by a hook that sets request.user (with sub, id or userId), refuse others there, or set the option "scope"')
    isLogged = true
    throw new ScopeRequiredError(route)
  }
}

/**
 * Returns who sent a request: the user of the session, else `request.user`, else the session that the client came with; the last two together with
 * the `Authorization`, where there is one.
 * The address is no owner: behind a proxy it is the same for all clients.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE` for an id that stands for several users
 */
function ownerOf (request: FastifyRequest, route: string): string | undefined {
  const session: unknown = Reflect.get(request, 'session')
  const userId = property(session, 'userId')
  if (isId(userId, route, 'request.session.userId')) return `user ${userId}`
  const { authorization = '' } = request.headers
  const known = ofUser(Reflect.get(request, 'user'), route) ?? ofSession(request, session)
  if (NO_CREDENTIALS.test(authorization.trim())) return known
  // A gateway, a partner or the password of a test environment may send the same for several users.
  return `authorization ${JSON.stringify([authorization, known ?? null])}`
}

/** As authentication plugins set it: an id, or claims of a token (RFC 7519), or a row of a database. Other fields may be the same for several users. */
function ofUser (user: unknown, route: string): string | undefined {
  if (isId(user, route, 'request.user')) return `request.user ${user}`
  const [issuer, ...ids] = ['iss', 'sub', 'id', 'userId'].map(name => {
    const id = property(user, name)
    return isId(id, route, `request.user.${name}`) ? String(id) : null
  })
  // The issuer alone is no user.
  return ids.every(id => id === null) ? undefined : `request.user ${JSON.stringify([...ids, issuer])}`
}

/** A session that was made for this request is unlike that of its repetition. */
function ofSession ({ headers: { cookie = '' } }: FastifyRequest, session: unknown): string | undefined {
  const id = property(session, 'sessionId')
  const isKnown = typeof id === 'string' && id !== '' && (cookie.includes(id) || cookie.includes(encodeURIComponent(id)))
  return isKnown ? `session ${id}` : undefined
}

function isId (value: unknown, route: string, where: string): value is string | number | bigint {
  if (Number.isInteger(value) && !isExactNumber(value)) throw new InvalidValueError(`route ${route}: ${where} is`, 'a whole number above 2^53, which was rounded', 'such an id as a string or a bigint')
  return (typeof value === 'string' && value !== '') || isNumericId(value)
}

function property (object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null ? Reflect.get(object, name) : undefined
}
