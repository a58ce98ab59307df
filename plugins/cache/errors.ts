import { pluginError } from '../shared/plugin/errors.js'

/** The store did not reply, or refused the write. */
export const StoreUnavailableError = pluginError('cache', 'STORE_UNAVAILABLE', 'the value could not be stored', 503)
/** The invalidation is not written yet. It is retried until it is. */
export const InvalidationPendingError = pluginError('cache', 'INVALIDATION_PENDING',
  'not invalidated on other instances yet (%s): the invalidation is retried until it succeeds', 503)
/** The serializer does not support the value. */
export const UnserializableError = pluginError('cache', 'UNSERIALIZABLE',
  'the value of "%s" cannot be serialized by %s: %s')
/** The factory or the writer took longer than its `hardTimeout`. */
export const FactoryTimeoutError = pluginError('cache', 'FACTORY_TIMEOUT',
  'the function for "%s" did not return within %s ms', 503)
/** The write was not accepted: its partition of the backlog is full. */
export const BacklogFullError = pluginError('cache', 'BACKLOG_FULL',
  'write-behind "%s": the write was not accepted, as %s writes are queued in its partition of the backlog', 503)
/** The write was certainly not accepted. */
export const NotAcceptedError = pluginError('cache', 'STORE_UNAVAILABLE',
  'write-behind "%s": the write was not accepted (%s)', 503)
/** The write may or may not have been accepted: the store did not reply in time, or the connection broke. */
export const UncertainError = pluginError('cache', 'UNCERTAIN',
  'write-behind "%s": no reply, so the write may or may not have been accepted (%s)', 503)
/** Some accepted writes were not written in time. They remain queued. */
export const FlushIncompleteError = pluginError('cache', 'FLUSH_INCOMPLETE',
  'write-behind "%s": some writes were not written within %s ms', 503)
/** A function of the options returned an invalid value. */
export const InvalidValueError = pluginError('cache', 'INVALID_VALUE', '%s returned %s; it must return %s')
/** A factory called `getOrSet` with a key whose fill waits for that factory. */
export const ReentrantError = pluginError('cache', 'REENTRANT',
  'getOrSet would wait for itself: %s; in a factory, load this value without getOrSet, ' +
  'or under a key that does not depend on the one being filled')
/** An argument of a wrapped function has no key of its own. */
export const InvalidArgumentError = pluginError('cache', 'INVALID_OPTION',
  'wrap "%s": argument %s holds %s, which has no key of its own; ' +
  'give wrap the option "key" as a function of the arguments')
