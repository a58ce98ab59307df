import { pluginError } from '../shared/plugin/errors.js'

/** The answer while the store cannot be asked: 503, so that nobody is taken for logged out. */
export const StoreUnavailableError = pluginError('session', 'STORE_UNAVAILABLE', 'sessions cannot be read or saved now', 503)
/** The user has as many sessions as there may be. */
export const TooManySessionsError = pluginError('session', 'TOO_MANY', 'this user has %s sessions, and no more are allowed', 409)
/** `@fastify/cookie` was registered with another `hook` than `onRequest`. */
export const NoCookiesError = pluginError('session', 'NO_COOKIES', 'the cookies have not been read yet: @fastify/cookie is to have the hook "onRequest", as by default')
/** A property of the session that JSON cannot represent: nothing of that change is saved. */
export const UnserializableError = pluginError('session', 'UNSERIALIZABLE', 'the session\'s property "%s" cannot be represented in JSON (%s)')
/** The session's cookie cannot be written as a header. Its value is not repeated: it may have come from a client. */
export const InvalidCookieError = pluginError('session', 'INVALID_COOKIE', 'request.session.cookie%s cannot be sent; %s')
/** A handler replaced the session by an object of its own, which would not be saved. */
export const InvalidSessionError = pluginError('session', 'INVALID_SESSION', 'request.session was set to %s; set properties of the session that is there, or set it to null to destroy it')
/** `request.login` or `request.logout` where there is no session to use. */
export const NoSessionError = pluginError('session', 'NO_SESSION', 'this request has no session: the route has config.session false, its path is outside the cookie\'s, or the session was ended before in this request')
/** After `request.login` the session is not that user's by the option `userId`. */
export const NotTheUserError = pluginError('session', 'NOT_THE_USER', 'after login the option userId does not find that user in the session; name the property by userId, or set it by login\'s option set')
/** The option `userId` found a value in the session that is no user's id. */
export const InvalidValueError = pluginError('session', 'INVALID_VALUE', 'the option "userId" found %s in the session; allowed: %s')
/** A function of the app's returned what cannot be used. */
export const InvalidResultError = pluginError('session', 'INVALID_VALUE', '"%s" returned %s; allowed: %s')
