import { pluginError } from '../shared/plugin/errors.js'

/** Redis did not accept a message, or confirm a subscription, in time. `cause` has the reason. */
export const StoreUnavailableError = pluginError('events', 'STORE_UNAVAILABLE', '%s; try again later', 503)
/** Redis refused the subscription: an ACL forbids it, or the server does not know sharded pub/sub. */
export const RefusedError = pluginError('events', 'REFUSED', 'cannot subscribe to "%s": %s', 503)
/** The app has set `subscriptions: false`. */
export const SubscriptionsOffError = pluginError(
  'events', 'SUBSCRIPTIONS_OFF', 'cannot subscribe to "%s" with the option subscriptions: false'
)
/** The data cannot be represented in JSON. */
export const UnserializableError = pluginError(
  'events', 'UNSERIALIZABLE', 'the data for "%s" cannot be represented in JSON: %s'
)
/** A client sent an id that this stream cannot have issued. */
export const InvalidLastEventIdError = pluginError(
  'events', 'INVALID_LAST_EVENT_ID', 'Last-Event-ID is not an id of this stream', 400
)
