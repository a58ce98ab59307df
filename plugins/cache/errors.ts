import { pluginError } from '../shared/errors.js'

/** The store did not answer, or refused. */
export const StoreUnavailableError = pluginError('cache', 'STORE_UNAVAILABLE', 'the value could not be stored', 503)
