import { pluginError } from '../shared/plugin/errors.js'

/** Redis did not take it in time. */
export const StoreUnavailableError = pluginError('events', 'STORE_UNAVAILABLE', '%s (%s)', 503)
/** Redis answers, but does not let it subscribe: an ACL, or a server older than sharded pub/sub. */
export const RefusedError = pluginError('events', 'REFUSED', 'cannot subscribe to "%s": %s', 503)
/** It cannot be written as JSON. */
export const UnserializableError = pluginError('events', 'UNSERIALIZABLE', 'what is published to "%s" is not JSON: %s')
export const InvalidLastEventIdError = pluginError('events', 'INVALID_LAST_EVENT_ID', 'Last-Event-ID is not an id of this stream', 400)
