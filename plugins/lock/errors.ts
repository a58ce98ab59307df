import { pluginError } from '../shared/plugin/errors.js'

/** Somebody else had the lock until the wait was over. 423: the client may try again. */
export const LockedError = pluginError('lock', 'LOCKED', 'somebody else has the lock', 423)
/** The lock was lost while it was needed: what was done under it may have been done beside somebody else. */
export const LostError = pluginError('lock', 'LOST', 'the lock was lost: %s', 503)
/** Redis, or a majority of the nodes, did not answer or refused: nothing is known to be locked. Its `cause` says why. */
export const StoreUnavailableError = pluginError('lock', 'STORE_UNAVAILABLE', 'no lock can be had now', 503)
/** The stored fencing token is damaged: no token above it can be given out. */
export const FenceExhaustedError = pluginError('lock', 'FENCE_EXHAUSTED',
  'no fencing token can be given out above the stored one, which is damaged: delete the key %s when nobody holds the lock')
/** The lock is extended after it was released: a mistake of the program. */
export const ReleasedError = pluginError('lock', 'RELEASED', 'the lock was released, so it cannot be extended: acquire it again')
/** The app is closing. */
export const ClosedError = pluginError('lock', 'CLOSED', 'the app is closing', 503)

/** Names the resource to a log. The message, which a client may see, does not. */
export function about<E extends Error> (error: E, resource: string): E {
  return Object.assign(error, { resource })
}
