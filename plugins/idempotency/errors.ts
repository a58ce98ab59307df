import { pluginError } from '../shared/plugin/errors.js'

const InProgress = pluginError('idempotency', 'IN_PROGRESS', 'a request with this key is under way', 409)

/** A request whose key is not answered yet came again, and waited in vain. Fastify sends its `headers`. */
export function inProgress (): Error {
  return Object.assign(new InProgress(), { headers: { 'retry-after': '1' } })
}

/** The store cannot be asked, and the policy is to refuse then. */
export const StoreUnavailableError = pluginError('idempotency', 'STORE_UNAVAILABLE', 'it cannot be told now whether this was done before', 503)
/** The route wants a key, and the request has none. */
export const MissingKeyError = pluginError('idempotency', 'MISSING_KEY', 'this request needs the header %s', 400)
/** The header is no key. */
export const InvalidKeyError = pluginError('idempotency', 'INVALID_KEY', 'the header %s %s; send 1 to %s printable ASCII characters, and put a key with blanks or commas in quotes, in which \\" stands for a quote and \\\\ for a backslash', 400)
/** The key belongs to a request of this caller that was another one. */
const KeyReusedError = pluginError('idempotency', 'KEY_REUSED', 'this key was used for %s; send each new request with a new key', 422)
/** @param differences - the parts in which the two requests differ, where that is known */
export function keyReused (differences: readonly string[]): Error {
  return new KeyReusedError(differences.length === 0 ? 'another request' : `a request with another ${differences.join(' and another ')}`)
}

/** It was done, but the answer was too large to be kept. */
export const ResponseNotStoredError = pluginError('idempotency', 'ANSWER_NOT_KEPT', 'this was done before; its answer was too large to be kept', 409)
/** The parsed body is circular, say, or has a BigInt: whether two are the same cannot be told. */
export const UnserializableError = pluginError('idempotency', 'UNSERIALIZABLE', 'the parsed body cannot be told in JSON, so that requests cannot be compared (%s)')
/** A function among the options returned no string, or an id is a rounded number: callers, or requests, could not be told apart. */
export const InvalidValueError = pluginError('idempotency', 'INVALID_VALUE', '%s %s; allowed: %s')
/** The default scope finds nothing that tells the caller apart. */
export const ScopeRequiredError = pluginError('idempotency', 'SCOPE_REQUIRED', 'the caller of %s is unknown, as the request has no known session, no Authorization, and no request.user with sub, id or userId when its hooks have run: send credentials, or set the option "scope" in the app, such as scope: request => request.headers[\'x-api-key\']', 400)
