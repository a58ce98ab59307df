import type { Session } from 'fastify'
import { digestOf } from './digest.js'
import { isPromise } from '../shared/plugin/maybe-promise.js'
import { checkAttributes, checkIsCookie } from './cookie/cookie-rules.js'
import { cookieToStore, type CookieOptions } from './cookie/cookie.js'
import { storeUnavailable } from './errors.js'
import type { SessionCodec } from './session-codec.js'
import { diff, joinFields, takeSnapshot, type FieldChanges, type SessionSnapshot } from './session-diff.js'
import { abandon, KnownSession, stateOf } from './session-state.js'
import type { SessionStatsCounter } from './stats.js'
import type { SessionChange, SessionStore } from './store/store.js'
import type { UserIndex } from './store/user-index.js'
import { digestOfUserId } from './user-id.js'

export interface SaveOptions {
  store: SessionStore
  /** Calls the store within the deadline and the circuit of Redis. */
  run: <T>(operation: () => Promise<T>) => Promise<T>
  codec: SessionCodec
  /** The option `cookie`. */
  cookie: CookieOptions
  users: UserIndex
  stats: SessionStatsCounter
  userId: (session: Session) => unknown
}

/**
 * Saves what a request has changed in its session. The store merges it with what other requests have saved since the
 * session was read (`writeScript`).
 *
 * @returns whether there was something to save
 * @throws `FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE`, `FST_REDIS_SUITE_SESSION_TOO_MANY`,
 * `FST_REDIS_SUITE_SESSION_UNSERIALIZABLE`, `FST_REDIS_SUITE_SESSION_INVALID_COOKIE`,
 * `FST_REDIS_SUITE_SESSION_INVALID_VALUE`
 */
export async function saveSession (
  sessionId: string, session: Session, { store, run, codec, cookie, users, stats, userId }: SaveOptions
): Promise<boolean> {
  const handle = digestOf(sessionId)
  const state = stateOf(session)
  const before = state.known
  const write = async (change: Omit<SessionChange, 'isSealed'>) => {
    try {
      return await run(() => store.write(handle, { ...change, isSealed: codec.isSealing }))
    } catch (error) {
      throw storeUnavailable(error)
    }
  }

  // A destroyed session stays destroyed.
  if (before?.isGone) {
    abandon(session)
    return false
  }
  checkCookieOf(session, state.request !== undefined)

  const { after, changes } = changesOf(session, cookie)
  const givenId = userId(session)
  const user = digestOfUserId(isPromise(givenId) ? await givenId : givenId)
  const hasUserChanged = user !== before?.user
  if (before !== undefined && !hasUserChanged && Object.keys(changes.set).length === 0 && changes.delete.length === 0) {
    return false
  }

  // The user's index is written first: a session that is missing from it could not be found to be destroyed. An index
  // entry without a session is removed when it is found.
  let created: string | undefined
  if (user !== undefined && hasUserChanged) {
    if (before === undefined) created = await write({ set: {}, delete: [], create: true, from: '', text: '{}' })
    await users.enter(user, handle)
  }

  // The store merges the changes, property by property.
  const version = await write({
    set: codec.sealFields(changes.set, handle),
    delete: changes.delete,
    create: before === undefined && user === undefined,
    from: before?.version ?? created ?? '',
    text: joinFields(codec.sealFields(after, handle)),
    ...hasUserChanged && { owner: { user, device: codec.sealDevice(deviceOf(session), handle) } }
  })
  if (version === undefined) abandon(session)
  else if (before === undefined) stats.created()

  // The next save compares with what is stored now.
  state.known = new KnownSession(next => diff(after, next), version ?? '', user)
  for (const call of state.onStored ?? []) call()
  delete state.onStored

  // The session leaves the former user's index, and the new user's if it was destroyed meanwhile.
  if (hasUserChanged && before?.user !== undefined) await users.leave(before.user, handle)
  if (hasUserChanged && user !== undefined && version === undefined) await users.leave(user, handle)
  return true
}

/** Returns the properties of a session as they are to be stored, and what has changed since it was read or saved. */
function changesOf (
  session: Session, options: CookieOptions
): { after: SessionSnapshot, changes: FieldChanges } {
  const after = takeSnapshot(session)
  const cookie = cookieToStore(session.cookie, options)
  if (cookie === undefined) delete after['cookie']
  else after['cookie'] = JSON.stringify(cookie)
  return { after, changes: stateOf(session).known?.changesTo(after) ?? diff({}, after) }
}

/** The client's address and `User-Agent`, for the list of a user's sessions. */
function deviceOf (session: Session): string {
  const { request } = stateOf(session)
  return JSON.stringify(request === undefined ? [] : [request.ip, (request.headers['user-agent'] ?? '').slice(0, 256)])
}

/** @param isOfRequest - whether the session is a request's; a program may pass a plain object to the store */
function checkCookieOf ({ cookie }: Session, isOfRequest: boolean): void {
  if (isOfRequest || (typeof cookie !== 'object' && cookie !== undefined)) checkIsCookie(cookie)
  if (cookie !== undefined && cookie !== null) checkAttributes(cookie)
}
