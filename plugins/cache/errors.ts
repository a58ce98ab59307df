import { pluginError } from '../shared/errors.js'

/** The store did not answer, or refused. */
export const StoreUnavailableError = pluginError('cache', 'STORE_UNAVAILABLE', 'the value could not be stored', 503)
/** The serializer cannot tell such a value. */
export const UnserializableError = pluginError('cache', 'UNSERIALIZABLE', 'the value of "%s" cannot be serialized by %s: %s')
/** The factory or the writer took longer than its `hardTimeout`. */
export const FactoryTimeoutError = pluginError('cache', 'FACTORY_TIMEOUT', '"%s" was not made within %s ms', 503)
