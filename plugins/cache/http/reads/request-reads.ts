import type { IncomingHttpHeaders } from 'node:http'
import type { ReadRecorder, Reader } from '../../../shared/http/read-recorder.js'
import type { IgnoredNames } from './ignored-names.js'
import { COOKIE } from '../../rfc/vary.js'

type Properties = Record<string | symbol, unknown>

/** The name of all header fields, where they are read without being named. */
export const ALL_HEADERS = '*'
export const ENCODING = 'accept-encoding'
/** The name of `request.host` behind a trusted proxy. */
export const FORWARDED_HOST = 'request.host'
/** How many names are recorded. A handler that reads more may read any. */
const MAX_NAMES = 100
const LOWER_CASE = /^[!#$%&'*+.^_`|~\da-z:-]+$/

/**
 * Records what is read of one request: header fields by name, `cookie:{name}`, `query:{name}`, `request.host`,
 * `request.ip`, `request.protocol`, `request.socket`, `*`.
 *
 * The recorder is also the handler of the headers' Proxy, so that a request takes one object.
 */
export class RequestReads implements ReadRecorder, ProxyHandler<Properties> {
  reader: Reader = 'hooks'
  readonly headers: IncomingHttpHeaders
  /** The headers as hooks and the handler see them: each read is recorded. */
  readonly watchedHeaders: IncomingHttpHeaders
  readonly #harmless: IgnoredNames
  /** Whether a query parameter is a part of the key. Undefined where all are. */
  readonly #keysParameter: ((name: string) => boolean) | undefined
  /** Names that were read and found, by the first reader. */
  #present: Map<string, Reader> | undefined
  /** Names that were read and not found. */
  #absent: Map<string, Reader> | undefined
  #ofOwner: Set<string> | undefined
  #ofSession: Map<string, boolean> | undefined
  /** How often the cookies were read as one text. */
  #cookieTexts = 0
  #cookieTextReader: Reader = 'hooks'
  #hadCookieText = false
  /** Whether the cookies as one text were read last. */
  #isCookieTextLast = false
  /** Whether `Accept-Encoding` was read, which counts only where the response has an encoding. */
  hasReadEncoding = false
  isSocketWatched = false
  #cookies: { of: object, view: object } | undefined
  #query: { of: object, view: object } | undefined

  constructor (
    headers: IncomingHttpHeaders, harmless: IgnoredNames, keysParameter: ((name: string) => boolean) | undefined
  ) {
    this.headers = headers
    this.watchedHeaders = new Proxy(headers as Properties, this) as IncomingHttpHeaders
    this.#harmless = harmless
    this.#keysParameter = keysParameter
  }

  get (target: Properties, name: string | symbol): unknown {
    const value = target[name]
    if (typeof name === 'string') this.#readHeader(target, name, value)
    return value
  }

  has (target: Properties, name: string | symbol): boolean {
    if (typeof name === 'string') this.#readHeader(target, name, target[name])
    return Reflect.has(target, name)
  }

  getOwnPropertyDescriptor (target: Properties, name: string | symbol): PropertyDescriptor | undefined {
    if (typeof name === 'string') this.#readHeader(target, name, target[name])
    return Reflect.getOwnPropertyDescriptor(target, name)
  }

  ownKeys (target: Properties): Array<string | symbol> {
    this.note(ALL_HEADERS, true)
    return Reflect.ownKeys(target)
  }

  #readHeader (target: Properties, name: string, value: unknown): void {
    if (this.reader === 'suite') {
      this.#isCookieTextLast = false
      return
    }
    // A name such as "constructor" is no field, and field names have no upper case.
    if (value === undefined ? !LOWER_CASE.test(name) : !Object.hasOwn(target, name)) return
    this.#isCookieTextLast = name === 'cookie' && (this.reader === 'hooks' || this.reader === 'handler') &&
      !this.#harmless.anywhere.has(name)
    if (!this.#isCookieTextLast) return this.note(name, value !== undefined)
    if (this.#cookieTexts++ === 0) this.#cookieTextReader = this.reader
    // A hook may delete the header after reading it.
    if (value !== undefined) this.#hadCookieText = true
  }

  note (name: string, isPresent: boolean): void {
    const { reader } = this
    if (reader === 'suite') return
    if (name === ENCODING) {
      this.hasReadEncoding = true
    } else if (reader === 'owner') {
      this.#ofOwner ??= new Set()
      this.#ofOwner.add(name)
    } else if (reader === 'session') {
      if (!name.startsWith(COOKIE)) return
      this.#ofSession ??= new Map()
      this.#ofSession.set(name, isPresent)
    } else if (!(reader === 'hooks' ? this.#harmless.inHooks : this.#harmless.anywhere).has(name)) {
      this.#record(name, isPresent, reader)
    }
  }

  #record (name: string, isPresent: boolean, reader: Reader): void {
    if (isPresent) this.#present ??= new Map()
    else this.#absent ??= new Map()
    const names = isPresent ? this.#present : this.#absent
    if (names === undefined || names.has(name)) return
    if (names.size < MAX_NAMES) names.set(name, reader)
    else this.#present = (this.#present ?? new Map()).set(ALL_HEADERS, reader)
  }

  /** Called when a parser has parsed the text that was just read: from now on single cookies count. */
  parsedCookies (): void {
    if (this.#isCookieTextLast && this.#cookieTexts > 0) this.#cookieTexts--
    this.#isCookieTextLast = false
  }

  /** Returns the cookies as hooks and the handler see them. */
  watchCookies (cookies: unknown): unknown {
    if (this.reader === 'suite' || typeof cookies !== 'object' || cookies === null) return cookies
    if (this.#cookies?.of !== cookies) this.#cookies = { of: cookies, view: new Proxy(cookies, new CookieNames(this)) }
    return this.#cookies.view
  }

  /** Returns the query as hooks see it. The handler does not see the parameters that are not in the key. */
  watchQuery (query: unknown): unknown {
    const keysParameter = this.#keysParameter
    if (keysParameter === undefined || this.reader !== 'hooks' || typeof query !== 'object' || query === null) {
      return query
    }
    if (this.#query?.of !== query) {
      this.#query = { of: query, view: new Proxy(query, new QueryNames(this, keysParameter)) }
    }
    return this.#query.view
  }

  /** Runs a getter of the request that reads headers or the socket for `name`. */
  readFor<T> (name: string, read: () => T): T {
    if (name === FORWARDED_HOST) this.#noteForwardedHost()
    else this.note(name, true)
    const before = this.reader
    this.reader = 'suite'
    try {
      return read()
    } finally {
      this.reader = before
    }
  }

  /** Behind a trusted proxy the host is that of `X-Forwarded-Host`, if the request has it. */
  #noteForwardedHost (): void {
    const isForwarded = this.headers['x-forwarded-host'] !== undefined
    this.note(isForwarded ? FORWARDED_HOST : 'host', true)
    if (!isForwarded) this.note('x-forwarded-host', false)
  }

  /** Called when the session is read: it may depend on the cookies that the session plugin read before. */
  readSession (): void {
    const { reader } = this
    if (reader === 'suite' || reader === 'session') return
    if (this.#ofSession === undefined) return
    for (const [name, isPresent] of this.#ofSession) {
      if (reader === 'owner') this.note(name, isPresent)
      else if (!this.#harmless.anywhere.has(name)) this.#record(name, isPresent, 'hooks')
    }
  }

  get isEmpty (): boolean {
    return this.#present === undefined && this.#cookieTexts === 0
  }

  /** Whether a name was read and found, even where a hook has deleted it since. */
  had (name: string): boolean {
    return this.#present?.has(name) ?? false
  }

  /** Names that were read and found. */
  get present (): Array<readonly [name: string, reader: Reader]> {
    return [...this.#present ?? [], ...this.#cookieText(true)]
  }

  /** Names that were read and not found. */
  get absent (): Array<readonly [name: string, reader: Reader]> {
    return [...this.#absent ?? [], ...this.#cookieText(false)]
  }

  /** Whether the route's function `private` read a name, so that the owner depends on it. */
  isOfOwner (name: string): boolean {
    return this.#ofOwner?.has(name) ?? false
  }

  #cookieText (isPresent: boolean): Array<readonly ['cookie', Reader]> {
    return this.#cookieTexts > 0 && this.#hadCookieText === isPresent ? [['cookie', this.#cookieTextReader]] : []
  }
}

/**
 * Records which properties of an object are read. A class shares its methods: functions created for each request would
 * take more time.
 */
abstract class Names implements ProxyHandler<object> {
  abstract onRead (name: string, isPresent: boolean): void

  onAll (): void {}

  get (target: object, name: string | symbol): unknown {
    this.#read(target, name)
    return Reflect.get(target, name)
  }

  has (target: object, name: string | symbol): boolean {
    this.#read(target, name)
    return Reflect.has(target, name)
  }

  getOwnPropertyDescriptor (target: object, name: string | symbol): PropertyDescriptor | undefined {
    this.#read(target, name)
    return Reflect.getOwnPropertyDescriptor(target, name)
  }

  ownKeys (target: object): Array<string | symbol> {
    this.onAll()
    return Reflect.ownKeys(target)
  }

  #read (target: object, name: string | symbol): void {
    if (typeof name === 'string' && !(name in Object.prototype && !Object.hasOwn(target, name))) {
      this.onRead(name, Object.hasOwn(target, name))
    }
  }
}

class CookieNames extends Names {
  readonly reads: RequestReads

  constructor (reads: RequestReads) {
    super()
    this.reads = reads
  }

  override onRead (name: string, isPresent: boolean): void {
    this.reads.note(`cookie:${name}`, isPresent)
  }

  override onAll (): void {
    this.reads.note('cookie', true)
  }
}

class QueryNames extends Names {
  readonly reads: RequestReads
  readonly keysParameter: (name: string) => boolean

  constructor (reads: RequestReads, keysParameter: (name: string) => boolean) {
    super()
    this.reads = reads
    this.keysParameter = keysParameter
  }

  override onRead (name: string, isPresent: boolean): void {
    if (isPresent && !this.keysParameter(name)) this.reads.note(`query:${name}`, true)
  }
}
