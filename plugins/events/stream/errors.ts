import { pluginError } from '../../shared/plugin/errors.js'

/** The store refused, or did not answer in time; what was to be appended then may be appended nevertheless. */
export const StoreUnavailableError = pluginError('events', 'STORE_UNAVAILABLE', 'stream "%s": the store cannot be used (%s)', 503)
/** The cursor was not made by this stream, or by one of other partitions. */
export const InvalidCursorError = pluginError('events', 'INVALID_CURSOR', 'stream "%s": "%s" is no cursor of it', 400)
/** JSON cannot tell such data. */
export const UnserializableError = pluginError('events', 'UNSERIALIZABLE', 'stream "%s": the data cannot be told in JSON (%s)')
