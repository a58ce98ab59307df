import { pluginError } from '../shared/plugin/errors.js'

/** Another owner had the lock until `wait` was over. 423: the client may try again. */
export const LockedError = pluginError('lock', 'LOCKED', 'another owner has the lock; try again later', 423)
/** The lock was lost while it was needed: another owner may have worked on the resource at the same time. */
export const LostError = pluginError('lock', 'LOST', 'the lock was lost: %s', 503)
/** Redis, or a majority of the nodes, did not reply or refused. `cause` has the reason. */
export const StoreUnavailableError = pluginError(
  'lock', 'STORE_UNAVAILABLE', 'the store of locks is unavailable; try again later', 503
)
/** The stored fencing token is damaged: there is no safe integer above it. */
export const FenceExhaustedError = pluginError('lock', 'FENCE_EXHAUSTED',
  'the stored fencing token is damaged, and no token is above it: delete the key %s when no caller holds the lock')
/** The program extends a lock that it has released. */
export const ReleasedError = pluginError(
  'lock', 'RELEASED', 'the lock was released, so it cannot be extended: acquire it again'
)
/** The plugin has the option `nodes`. */
export const NoQuorumError = pluginError('lock', 'NO_QUORUM',
  'semaphores need one Redis, not the option "nodes": register the plugin in a context of its own, with "redis"')
/** A route has as many requests as `config.concurrency` allows. */
export const BusyError = pluginError('lock', 'BUSY', 'too many requests at once; try again later', 503)
/** The function `key` of `config.concurrency` returned something else than a key: all callers would share a place. */
export const InvalidKeyError = pluginError('lock', 'INVALID_VALUE',
  'the function "key" of config.concurrency returned a value of the type %s; allowed: a string, a finite number or a ' +
  'bigint')
/** The app is closing. */
export const ClosedError = pluginError('lock', 'CLOSED', 'the app is closing', 503)

/** Adds the resource to an error, for the log. The message, which a client may get, does not have it. */
export function withResource<E extends Error> (error: E, resource: string): E {
  return Object.assign(error, { resource })
}
