import type { FastifyInstance, FastifyRequest, Session } from 'fastify'
import type { AnyRequest } from '../shared/http/any-request.js'
import type { Duration } from '../shared/plugin/duration.js'
import { duration, option, unchecked } from '../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable } from '../shared/plugin/option-table.js'
import { digestOf } from './digest.js'
import { handled } from '../shared/plugin/maybe-promise.js'
import { checkIsCookie, MAX_AGE_MS } from './cookie/cookie-rules.js'
import { NoSessionError, NotTheUserError, StoreUnavailableError } from './errors.js'
import { abandon, isAnonymous, isNew } from './session-state.js'
import { userOf } from './sessions.js'
import { digestOfUserId, type UserId } from './user-id.js'
import type { UserIndex } from './store/user-index.js'

export interface LoginOptions {
  /** The properties of the session that the login keeps. @default none */
  keep?: readonly string[] | undefined
  /** The properties that the login sets, beside the user. */
  set?: Partial<Session> | undefined
  /**
   * How long the client keeps the cookie, from the session's last save. `idleTimeout` and `absoluteTimeout` end the
   * session as well.
   *
   * @default the option `cookie.maxAge`
   */
  maxAge?: Duration | undefined
}

const LOGIN_OPTIONS = {
  keep: option({
    type: 'string[]',
    allowed: "a list of the session's properties",
    fallback: [],
    parse: given => Array.isArray(given) ? given as readonly string[] : undefined
  }),
  set: unchecked('properties'),
  maxAge: duration(undefined, { min: 1, max: MAX_AGE_MS })
} satisfies OptionTable<LoginOptions>

/** The functions behind `request.login` and `request.logout`, which another package may have taken. */
export interface Logins {
  /**
   * Logs a user in: the request's session gets a new id, and is saved before this returns.
   *
   * @throws `FST_REDIS_SUITE_SESSION_TOO_MANY`, `FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE`
   */
  login (request: AnyRequest, userId: UserId, options?: LoginOptions): Promise<void>
  /** Destroys the request's session, and clears the client's cookie. */
  logout (request: AnyRequest): Promise<void>
}

interface LoginParts {
  users: UserIndex
  userId: (session: Session) => unknown
  /** The property that holds the user's id; undefined if the option `userId` is a function. */
  property: string | undefined
}

export function createLogins ({ users, userId, property }: LoginParts): Logins {
  function sessionOf (request: FastifyRequest): FastifyRequest['session'] {
    if (isAnonymous(request)) throw new StoreUnavailableError()
    if (!request.session?.sessionId) throw new NoSessionError()
    return request.session
  }

  async function login (request: FastifyRequest, user: unknown, options: LoginOptions): Promise<void> {
    const { keep, set, maxAge } = resolveOptions('session', LOGIN_OPTIONS, options)
    const before = sessionOf(request)
    // The id is checked before the session changes: with an invalid one the login would have no user.
    await users.requireRoom(userOf(user), digestOf(before.sessionId))
    // A new id protects against session fixation. The id of a new session is not known to any client.
    if (isNew(before)) empty(before, keep)
    else await before.regenerate([...keep] as never)
    const { session } = request
    try {
      Object.assign(session, property === undefined ? {} : { [property]: user }, set)
      if (maxAge !== undefined) setMaxAge(session, maxAge)
      if (digestOfUserId(await userId(session)) !== userOf(user)) throw new NotTheUserError()
      await session.save()
    } catch (error) {
      abandon(session)
      throw error
    }
  }

  async function logout (request: FastifyRequest): Promise<void> {
    if (request.session !== null) await sessionOf(request).destroy()
  }

  return {
    login: (request, user, options = {}) => handled(login(request as FastifyRequest, user, options)),
    logout: request => handled(logout(request as FastifyRequest))
  }
}

const HINT_PASSPORT =
  ". Set the option userId to 'passport', so that fastify.sessions knows the users of @fastify/passport"

/**
 * Decorates requests with `login` and `logout`, when all plugins have loaded and unless the names are taken: a login
 * library that is registered later (`@fastify/passport`) fails if they are.
 *
 * @param property - as in {@link LoginParts}
 */
export function decorateLogins (
  fastify: FastifyInstance, { login, logout }: Logins, property: string | undefined
): void {
  const decorators: Record<string, (this: FastifyRequest, ...args: never[]) => Promise<void>> = {
    login (user: UserId, options?: LoginOptions) { return login(this, user, options) },
    logout () { return logout(this) }
  }
  fastify.addHook('onReady', async () => {
    const names = Object.keys(decorators)
    const taken = names.filter(name => fastify.hasRequestDecorator(name))
    for (const name of names) if (!taken.includes(name)) fastify.decorateRequest(name, decorators[name])
    const hint = fastify.hasRequestDecorator('passport') && property === 'userId' ? HINT_PASSPORT : ''
    const list = (of: string) => taken.map(name => `${of}.${name}`).join(' and ')
    if (taken.length > 0) {
      const use = `use ${list('fastify.sessions')} for those of this plugin`
      fastify.log.info({ plugin: 'session' }, `session: another plugin has ${list('request')}; ${use}${hint}`)
    }
  })
}

function setMaxAge ({ cookie }: Session, maxAge: number): void {
  // The option `set` may have replaced the cookie.
  checkIsCookie(cookie)
  Object.assign(cookie, { maxAge })
}

function empty (session: Session, keep: readonly string[]): void {
  for (const name of Object.keys(session)) {
    if (name !== 'cookie' && !keep.includes(name)) Reflect.deleteProperty(session, name)
  }
}
