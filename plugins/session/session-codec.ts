import type { FastifyBaseLogger, Session } from 'fastify'
import { repairCookie } from './cookie/cookie-rules.js'
import { contentsOf, diffContents, parseFields, refuseLosses, type SessionSnapshot } from './session-diff.js'
import { KnownSession } from './session-state.js'
import type { Encryption } from './store/encryption.js'
import type { StoredSession } from './store/store.js'

const COOKIE_WARNING = 'session: attributes of a stored cookie cannot be sent and are ignored; ' +
  'those of the option cookie are used (logged once)'

/** A text of this length has up to 1,000 levels, which is not too deep. */
const SHALLOW_LENGTH = 2000

/** Turns stored sessions into properties, and properties into what is stored: JSON, encrypted where there is a key. */
export class SessionCodec {
  /** Whether properties are encrypted. */
  readonly isSealing: boolean
  readonly #encryption: Encryption | undefined
  readonly #log: FastifyBaseLogger
  #hasWarned = false
  #hasWarnedOfCookie = false

  constructor (encryption: Encryption | undefined, log: FastifyBaseLogger) {
    this.isSealing = encryption !== undefined
    this.#encryption = encryption
    this.#log = log
  }

  /** Returns a stored session; undefined if it cannot be decrypted or parsed, which the log says once. */
  open (handle: string, stored: StoredSession): { data: Session, known: KnownSession } | undefined {
    const fields = this.openFields(handle, stored)
    const contents = fields && jsonOf(() => {
      // Node.js 26 parses and prints JSON of any depth, but such a session could not be saved again.
      if (stored.text.length > SHALLOW_LENGTH) refuseLosses(fields)
      return contentsOf(fields)
    })
    if (fields === undefined || contents === undefined) {
      if (!this.#hasWarned) {
        this.#log.warn(
          { plugin: 'session' }, 'session: a stored session cannot be decrypted or parsed and is ignored (logged once)'
        )
      }
      this.#hasWarned = true
      return undefined
    }
    // As text: the properties are the request's from now on, which changes them.
    const cookie = fields['cookie'] === undefined ? undefined : jsonOf(() => JSON.stringify(fields['cookie']))
    if (fields['cookie'] !== undefined) fields['cookie'] = this.#repaired(fields['cookie'])
    const before = () => [cookie && `"cookie":${cookie}`, contents].filter(Boolean).join()
    const changesTo = (after: SessionSnapshot) => diffContents(before(), after)
    const known = new KnownSession(changesTo, stored.version, stored.user, contents)
    return { data: fields as unknown as Session, known }
  }

  /** Returns the properties of a stored session; undefined if it cannot be decrypted or parsed. */
  openFields (handle: string, { text, isSealed }: StoredSession): Record<string, unknown> | undefined {
    const encryption = this.#encryption
    if (isSealed !== this.isSealing) return undefined
    if (encryption === undefined) return parseFields(text)
    return parseFields(text, (name, sealed) =>
      typeof sealed === 'string' ? encryption.open(sealed, handle, name) : undefined)
  }

  /** Seals each property for its session and its name. */
  sealFields (fields: SessionSnapshot, handle: string): SessionSnapshot {
    const encryption = this.#encryption
    if (encryption === undefined) return fields
    const seal = (name: string, json: string) => JSON.stringify(encryption.seal(json, handle, name))
    return Object.fromEntries(Object.entries(fields).map(([name, json]) => [name, seal(name, json)]))
  }

  sealDevice (device: string, handle: string): string {
    return this.#encryption === undefined ? device : this.#encryption.seal(device, handle, 'device')
  }

  /** Returns undefined for a device that cannot be decrypted. */
  openDevice (device: string, handle: string): string | undefined {
    return this.#encryption === undefined ? device : this.#encryption.open(device, handle, 'device')
  }

  /** A stored attribute that cannot be sent is ignored: the option `cookie` has another one. */
  #repaired (stored: unknown): unknown {
    const repaired = repairCookie(stored)
    if (repaired === undefined) return stored
    if (!this.#hasWarnedOfCookie) {
      this.#log.warn({ plugin: 'session' }, COOKIE_WARNING)
    }
    this.#hasWarnedOfCookie = true
    return repaired
  }
}

/** Returns undefined for what is nested too deeply. */
function jsonOf (make: () => string | undefined): string | undefined {
  try {
    return make()
  } catch {
    return undefined
  }
}
