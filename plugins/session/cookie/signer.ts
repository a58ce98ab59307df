import { Signer } from '@fastify/cookie'
import type { FastifySessionOptions } from '@fastify/session'
import { LRUCache } from 'lru-cache'
import { handled, isPromise } from '../../shared/plugin/maybe-promise.js'
import { InvalidResultError } from '../errors.js'

type CustomSigner = Exclude<FastifySessionOptions['secret'], string | string[]>
type IdGenerator = NonNullable<FastifySessionOptions['idGenerator']>
type Unsigned = ReturnType<Signer['unsign']>

const MAX_CACHED = 10_000

/** Signs ids as `@fastify/cookie` does, and caches valid signatures: a client sends the same cookie again and again. */
export class CachingSigner {
  readonly #signer: Signer
  readonly #signed = new LRUCache<string, string>({ max: MAX_CACHED })
  readonly #unsigned = new LRUCache<string, Unsigned>({ max: MAX_CACHED })

  constructor (secrets: string | string[], algorithm?: string) {
    this.#signer = new Signer(secrets, algorithm)
  }

  sign (id: string): string {
    const present = this.#signed.get(id)
    if (present !== undefined) return present
    const signed = this.#signer.sign(id)
    this.#signed.set(id, signed)
    return signed
  }

  unsign (cookie: string): Unsigned {
    const present = this.#unsigned.get(cookie)
    if (present !== undefined) return present
    const unsigned = this.#signer.unsign(cookie)
    if (unsigned.valid && !unsigned.renew) this.#unsigned.set(cookie, unsigned)
    return unsigned
  }
}

/** Checks the results of an app's signer: `@fastify/session` would send and accept any value. */
export function checkedSigner (signer: CustomSigner): CustomSigner {
  return {
    sign: value =>
      checked('secret.sign', signer.sign(value), signed => typeof signed === 'string', 'a string, at once'),
    unsign: input =>
      checked('secret.unsign', signer.unsign(input), isUnsigned, 'an object with a boolean "valid", at once')
  }
}

/** Checks the results of an app's id generator, for the same reason. */
export function checkedGenerator (generate: IdGenerator): IdGenerator {
  return request =>
    checked(
      'idGenerator', generate(request), id => typeof id === 'string' && id !== '',
      'a string that is not empty, at once'
    )
}

function isUnsigned (result: unknown): boolean {
  if (typeof result !== 'object' || result === null || !('valid' in result)) return false
  return result.valid === false ||
    (result.valid === true && 'value' in result && typeof result.value === 'string' && result.value !== '')
}

function checked<T> (option: string, value: T, fits: (value: T) => boolean, allowed: string): T {
  if (fits(value)) return value
  if (isPromise(value)) handled(value)
  // The error does not name the value, which may be an id.
  throw new InvalidResultError(option, isPromise(value) ? 'a promise' : typeof value, allowed)
}
