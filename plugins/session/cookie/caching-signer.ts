import { Signer } from '@fastify/cookie'
import { LRUCache } from 'lru-cache'

const MOST = 10_000

type Unsigned = ReturnType<Signer['unsign']>

/** Signs ids as `@fastify/cookie` does, and remembers what was right: a client comes with the same cookie again and again. */
export class CachingSigner {
  readonly #signer: Signer
  readonly #signed = new LRUCache<string, string>({ max: MOST })
  readonly #unsigned = new LRUCache<string, Unsigned>({ max: MOST })

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
