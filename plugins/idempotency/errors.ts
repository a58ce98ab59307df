import { pluginError } from '../shared/plugin/errors.js'

const InProgressError = pluginError(
  'idempotency', 'IN_PROGRESS', 'a request with this key is in progress; try again later', 409
)

/** Returns the error of a request whose key is still in progress after `wait`. Fastify sends its `headers`. */
export function inProgressError (): Error {
  return Object.assign(new InProgressError(), { headers: { 'retry-after': '1' } })
}

/** The store is unavailable, and `onStoreError` is `'closed'`. */
export const StoreUnavailableError = pluginError(
  'idempotency', 'STORE_UNAVAILABLE',
  'whether this request has run is unknown while the store is unavailable; try again later', 503
)
/** The route requires a key, and the request has none. */
export const MissingKeyError = pluginError('idempotency', 'MISSING_KEY', 'this request needs the header %s', 400)
/** The header's value is not a valid key. */
export const InvalidKeyError = pluginError(
  'idempotency', 'INVALID_KEY',
  'the header %s %s; send 1 to %s printable ASCII characters, and put a key with blanks or commas in quotes, in ' +
  'which \\" stands for a quote and \\\\ for a backslash',
  400
)

const KeyReusedError = pluginError(
  'idempotency', 'KEY_REUSED', 'this key was used for %s; send each new request with a new key', 422
)

/**
 * Returns the error of a key that this caller used for another request.
 *
 * @param differences - the parts in which the two requests differ; empty if they are not known
 */
export function keyReusedError (differences: readonly string[]): Error {
  return new KeyReusedError(
    differences.length === 0 ? 'another request' : `a request with another ${differences.join(' and another ')}`
  )
}

/** The request ran before, but the body of its response was larger than `maxBodySize`. */
export const ResponseNotStoredError = pluginError(
  'idempotency', 'ANSWER_NOT_KEPT', 'this request ran before; its response was too large to be stored', 409
)
/** The parsed body cannot be serialized, so it cannot be compared with that of another request. */
export const UnserializableError = pluginError(
  'idempotency', 'UNSERIALIZABLE', 'the parsed body cannot be written as JSON, so requests cannot be compared (%s)'
)
/** The option `scope` or `fingerprint` did not return a string, or an id is a rounded number. */
export const InvalidValueError = pluginError('idempotency', 'INVALID_VALUE', '%s %s; allowed: %s')
/** The default scope cannot identify the caller. */
export const ScopeRequiredError = pluginError(
  'idempotency', 'SCOPE_REQUIRED',
  'the caller of %s is unknown, as the request has no known session, no Authorization, and no request.user with ' +
  'sub, id or userId when its hooks have run: send credentials, or set the option "scope" in the app, such as ' +
  'scope: request => request.headers[\'x-api-key\']',
  400
)
