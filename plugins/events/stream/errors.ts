import { pluginError } from '../../shared/plugin/errors.js'

/**
 * The store refused the call, or did not reply in time: `cause` has the reason. An append without a reply may have
 * succeeded. The message is sent to clients, so it does not name the stream.
 */
export const StoreUnavailableError = pluginError(
  'events', 'STORE_UNAVAILABLE', 'the store of events is unavailable; try again later', 503
)
/** The cursor belongs to another stream, or to another number of partitions. */
export const InvalidCursorError = pluginError('events', 'INVALID_CURSOR', 'stream "%s" has no cursor "%s"', 400)
/** JSON cannot represent the data. */
export const UnserializableError = pluginError(
  'events', 'UNSERIALIZABLE', 'stream "%s": cannot serialize the data (%s)'
)
