import { pluginError } from '../shared/plugin/errors.js'

/** A test clock stands still: an app in production would neither time out nor expire anything. */
export const ProductionError = pluginError('testing', 'PRODUCTION', 'createTestClock() is for tests; NODE_ENV is "production"')
