import type { FastifySessionOptions } from '@fastify/session'
import { handled, isPromise } from '../shared/plugin/maybe-promise.js'
import { InvalidResultError } from './errors.js'

type Secret = FastifySessionOptions['secret']
type Signer = Exclude<Secret, string | string[]>
type IdGenerator = NonNullable<FastifySessionOptions['idGenerator']>

/** `@fastify/session` takes whatever it is given for an id. */
export function checkedGenerator (generate: IdGenerator): IdGenerator {
  return request => checked('idGenerator', generate(request), id => typeof id === 'string' && id !== '', 'a string that is not empty, at once')
}

/** A signer of the app's, as `@fastify/session` would send and accept whatever it returns. */
export function checkedSigner (signer: Signer): Signer {
  return {
    sign: value => checked('secret.sign', signer.sign(value), signed => typeof signed === 'string', 'a string, at once'),
    unsign: input => checked('secret.unsign', signer.unsign(input), isUnsigned, 'an object with a boolean "valid", at once')
  }
}

function isUnsigned (result: unknown): boolean {
  if (typeof result !== 'object' || result === null || !('valid' in result)) return false
  return result.valid === false || (result.valid === true && 'value' in result && typeof result.value === 'string' && result.value !== '')
}

function checked<T> (option: string, value: T, fits: (value: T) => boolean, allowed: string): T {
  if (fits(value)) return value
  if (isPromise(value)) handled(value)
  // Not the value itself: it may be an id.
  throw new InvalidResultError(option, isPromise(value) ? 'a promise' : typeof value, allowed)
}
