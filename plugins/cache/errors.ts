import { pluginError } from '../shared/plugin/errors.js'

/** The store did not answer, or refused. */
export const StoreUnavailableError = pluginError('cache', 'STORE_UNAVAILABLE', 'the value could not be stored', 503)
/** It could not be written yet; it is tried again until it is. */
export const InvalidationPendingError = pluginError('cache', 'INVALIDATION_PENDING', 'not invalidated yet (%s): it is tried again until it is', 503)
/** The serializer cannot tell such a value. */
export const UnserializableError = pluginError('cache', 'UNSERIALIZABLE', 'the value of "%s" cannot be serialized by %s: %s')
/** The factory or the writer took longer than its `hardTimeout`. */
export const FactoryTimeoutError = pluginError('cache', 'FACTORY_TIMEOUT', '"%s" was not made within %s ms', 503)
/** So many writes wait for the source that no more are accepted: this one was not. */
export const BacklogFullError = pluginError('cache', 'BACKLOG_FULL', 'write-behind "%s": %s writes wait in its part of the backlog, the write was not accepted', 503)
/** The write was not accepted, for certain. */
export const NotAcceptedError = pluginError('cache', 'STORE_UNAVAILABLE', 'write-behind "%s": the write was not accepted (%s)', 503)
/** Nobody can say whether the write was accepted: the store did not answer in time, or the connection broke. */
export const UncertainError = pluginError('cache', 'UNCERTAIN', 'write-behind "%s": no answer, so the write may or may not have been accepted (%s)', 503)
/** Not all that was accepted before was written in time; nothing is lost by it. */
export const FlushIncompleteError = pluginError('cache', 'FLUSH_INCOMPLETE', 'write-behind "%s": not all was written within %s ms', 503)
/** A function of a route's options returned a value that cannot be used. */
export const InvalidValueError = pluginError('cache', 'INVALID_VALUE', '%s returned %s; allowed: %s')
/** A factory asked for a key whose value waits for that factory: neither would ever end. */
export const ReentrantError = pluginError('cache', 'REENTRANT', 'getOrSet would wait for itself: %s; in a factory, load this value without getOrSet, or under a key that does not depend on the one being made')
/** An argument of a wrapped function may read like another one. */
export const InvalidArgumentError = pluginError('cache', 'INVALID_OPTION', 'wrap "%s": argument %s holds %s, which has no key of its own; give wrap the option "key" as a function of the arguments')
