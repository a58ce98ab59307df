import type { FastifyInstance, FastifyRequest, Session } from 'fastify'
import { readOptions } from '../shared/options.js'
import { hashId } from '../shared/keys.js'
import { handled } from '../shared/maybe-promise.js'
import type { Adapter } from './adapter.js'
import { NoSessionError, NotTheUserError, StoreUnavailableError } from './errors.js'
import { removeReserved } from './fields.js'
import { userOf } from './sessions.js'
import { digestOfFound } from './user-id.js'
import type { UserSessions } from './user-sessions.js'

export interface LoginOptions {
  /** Properties of the session before the login that stay. @default none */
  keep?: readonly string[] | undefined
  /** Properties to set beside the user. */
  set?: Partial<Session> | undefined
}

interface LoginParts {
  adapter: Adapter
  users: UserSessions
  userId: (session: Session) => unknown
  /** In which property the user is kept; undefined where only `userId` knows. */
  property: string | undefined
}

/** `request.login` and `request.logout`. */
export function addLogin (fastify: FastifyInstance, { adapter, users, userId, property }: LoginParts): void {
  function require (request: FastifyRequest): FastifyRequest['session'] {
    if (adapter.isAnonymous(request)) throw new StoreUnavailableError()
    if (!request.session?.sessionId) throw new NoSessionError()
    removeReserved(request.session)
    return request.session
  }

  async function login (request: FastifyRequest, user: unknown, options: LoginOptions): Promise<void> {
    const { keep = [], set = {} } = checked(options)
    const before = require(request)
    // Before anything ends: a user that is not there is a mistake, and would be let in as nobody.
    await users.requireRoom(userOf(user), hashId(before.sessionId))
    // A new id, so that one that was planted before the login is worth nothing. One that nobody has seen yet is new.
    if (adapter.isNew(before)) empty(before, keep)
    else await before.regenerate([...keep] as never)
    const { session } = request
    try {
      Object.assign(session, property === undefined ? {} : { [property]: user }, set)
      removeReserved(session)
      if (digestOfFound(await userId(session)) !== userOf(user)) throw new NotTheUserError()
      await session.save()
    } catch (error) {
      adapter.abandon(session)
      throw error
    }
  }

  async function logout (request: FastifyRequest): Promise<void> {
    if (request.session !== null) await require(request).destroy()
  }

  fastify.decorateRequest('login', function (this: FastifyRequest, user, options = {}) { return handled(login(this, user, options)) })
  fastify.decorateRequest('logout', function (this: FastifyRequest) { return handled(logout(this)) })
}

function empty (session: Session, keep: readonly string[]): void {
  for (const name of Object.keys(session)) if (name !== 'cookie' && !keep.includes(name)) Reflect.deleteProperty(session, name)
}

function checked (options: LoginOptions): LoginOptions {
  const read = readOptions('session', options)
  read.onlyKnown(['keep', 'set'])
  if (options.keep !== undefined && !Array.isArray(options.keep)) read.fail('keep', "a list of the session's properties")
  return options
}
