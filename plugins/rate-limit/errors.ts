import { pluginError } from '../shared/errors.js'

/** The answer to a request over the limit. */
export const RateLimitExceededError = pluginError('rate-limit', 'EXCEEDED', 'limit exceeded, retry in %s', 429)
