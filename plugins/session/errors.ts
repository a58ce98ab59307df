import { pluginError } from '../shared/errors.js'

const Unavailable = pluginError('session', 'STORE_UNAVAILABLE', 'sessions cannot be read or saved now', 503)

/** The answer while the store cannot be asked: 503, so that nobody is taken for logged out. Fastify sends its `headers`. */
export function storeUnavailable (): Error {
  return Object.assign(new Unavailable(), { headers: { 'retry-after': '1' } })
}
