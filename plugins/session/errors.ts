import { pluginError, withoutCommand } from '../shared/plugin/errors.js'

/** The response while the store is unavailable: 503, so that no user is taken for logged out. */
export const StoreUnavailableError = pluginError(
  'session', 'STORE_UNAVAILABLE', 'sessions cannot be read or saved now', 503
)

/** @param reason - the store's error */
export function storeUnavailable (reason: unknown): Error {
  return new StoreUnavailableError({ cause: withoutCommand(reason) })
}

/** The user has the most sessions that `maxPerUser` allows. */
export const TooManySessionsError = pluginError(
  'session', 'TOO_MANY', 'this user has %s sessions, and no more are allowed', 409
)
/** `@fastify/cookie` was registered with a `hook` other than `onRequest`. */
export const NoCookiesError = pluginError('session', 'NO_COOKIES',
  'the cookies have not been read yet: @fastify/cookie must have the hook "onRequest", its default')
/** JSON cannot represent a property of the session. None of the changes is saved. */
export const UnserializableError = pluginError('session', 'UNSERIALIZABLE',
  'the session\'s property "%s" cannot be represented in JSON (%s)')
/** The session's cookie cannot be written as a header. The error does not repeat its value, which may be a client's. */
export const InvalidCookieError = pluginError(
  'session', 'INVALID_COOKIE', 'request.session.cookie%s cannot be sent; %s'
)
/** A handler has replaced the session by another object, which would not be saved. */
export const InvalidSessionError = pluginError('session', 'INVALID_SESSION',
  'request.session was set to %s; set properties of the session that is there, or set it to null to destroy it')
/** The request of `login` or `logout` has no session. */
export const NoSessionError = pluginError('session', 'NO_SESSION',
  'this request has no session: the route has config.session false, its path is outside the cookie\'s, ' +
  'or this request has ended the session')
/** After a login the option `userId` does not find that user in the session. */
export const NotTheUserError = pluginError('session', 'NOT_THE_USER',
  'after login the option userId does not find that user in the session; name the property by userId, ' +
  'or set it by login\'s option set')
/** The option `userId` found a value in the session that cannot be a user's id. */
export const InvalidValueError = pluginError(
  'session', 'INVALID_VALUE', 'the option "userId" found %s in the session; allowed: %s'
)
/** A function of the app returned an invalid value. */
export const InvalidResultError = pluginError('session', 'INVALID_VALUE', '"%s" returned %s; allowed: %s')
