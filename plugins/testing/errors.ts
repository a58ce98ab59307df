import { pluginError } from '../shared/plugin/errors.js'

/** A test clock does not run by itself: in production nothing would time out or expire. */
export const ProductionError = pluginError(
  'testing', 'PRODUCTION',
  'createTestClock() is for tests, and NODE_ENV is "production"; leave out the option "clock" in production'
)
