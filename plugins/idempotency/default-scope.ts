import type { FastifyRequest } from 'fastify'
import { routeOf } from '../shared/plugin/errors.js'
import { isExactNumber, isNumericId } from '../shared/data/ids.js'
import { InvalidValueError, ScopeRequiredError } from './errors.js'

/** Placeholders that clients send in place of credentials; `Og==` is an empty name and password. */
const NO_CREDENTIALS = /^(?:(?:basic|bearer|token)\b\s*)?(?:undefined|null|none|false|nan|og==|\[object \w+\])?$/i

/**
 * Creates the scope of routes without the option `scope`. It refuses callers that it cannot identify, and logs the
 * first one.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_SCOPE_REQUIRED` when the returned function is called
 */
export function createDefaultScope (): (request: FastifyRequest) => string {
  let isLogged = false
  return request => {
    const route = routeOf(request)
    const caller = callerOf(request, route)
    if (caller !== undefined) return caller
    if (!isLogged) {
      request.log.warn(
        { plugin: 'idempotency', route },
        'idempotency: a request with a key was refused, as its caller is unknown: log callers in by a hook that ' +
        'sets request.user (with sub, id or userId), refuse others there, or set the option "scope"'
      )
    }
    isLogged = true
    throw new ScopeRequiredError(route)
  }
}

/**
 * Identifies the caller: by the user of the session, else by `request.user`, else by the session's id. The last two are
 * combined with the header `Authorization`. The address does not identify a caller: behind a proxy it is the same for
 * all clients.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE` for an id that was rounded, so that several users have it
 */
function callerOf (request: FastifyRequest, route: string): string | undefined {
  const session: unknown = Reflect.get(request, 'session')
  const userId = property(session, 'userId')
  if (isId(userId, route, 'request.session.userId')) return `user ${userId}`
  const { authorization = '' } = request.headers
  const known = userOf(Reflect.get(request, 'user'), route) ?? sessionOf(request, session)
  if (NO_CREDENTIALS.test(authorization.trim())) return known
  // A gateway, a partner or a test environment may send the same credentials for several users.
  return `authorization ${JSON.stringify([authorization, known ?? null])}`
}

/** Identifies `request.user`: an id, the claims of a token (RFC 7519 §4.1) or a row. Users may share other fields. */
function userOf (user: unknown, route: string): string | undefined {
  if (isId(user, route, 'request.user')) return `request.user ${user}`
  const [issuer, ...ids] = ['iss', 'sub', 'id', 'userId'].map(name => {
    const id = property(user, name)
    return isId(id, route, `request.user.${name}`) ? String(id) : null
  })
  // The issuer alone does not identify a user.
  return ids.every(id => id === null) ? undefined : `request.user ${JSON.stringify([...ids, issuer])}`
}

/** A session that was created for this request does not identify the caller, as the repetition has another one. */
function sessionOf ({ headers: { cookie = '' } }: FastifyRequest, session: unknown): string | undefined {
  const id = property(session, 'sessionId')
  const isKnown = typeof id === 'string' && id !== '' &&
    (cookie.includes(id) || cookie.includes(encodeURIComponent(id)))
  return isKnown ? `session ${id}` : undefined
}

function isId (value: unknown, route: string, where: string): value is string | number | bigint {
  if (Number.isInteger(value) && !isExactNumber(value)) {
    throw new InvalidValueError(
      `route ${route}: ${where} is`, 'a whole number above 2^53, which was rounded',
      'such an id as a string or a bigint'
    )
  }
  return (typeof value === 'string' && value !== '') || isNumericId(value)
}

function property (object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null ? Reflect.get(object, name) : undefined
}
