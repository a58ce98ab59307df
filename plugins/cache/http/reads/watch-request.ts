import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { FastifyBaseLogger, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { readingAs, READS, type Reader } from '../../../shared/http/read-recorder.js'
import type { IgnoredNames } from './ignored-names.js'
import { ALL_HEADERS, RequestReads } from './request-reads.js'

type Raw = IncomingMessage & { [READS]?: RequestReads }

/** @returns undefined where the request's route is not watched */
export function readsOf (request: Pick<FastifyRequest, 'raw'>): RequestReads | undefined {
  return (request.raw as Raw)[READS]
}

export interface WatchOptions {
  harmless: IgnoredNames
  /** Whether a query parameter is a part of the key; undefined: all are. */
  keysParameter: ((name: string) => boolean) | undefined
}

/** Watches the requests of a route from before their first hook: of all that a route names, Fastify calls `childLoggerFactory` first. */
export function watchRoute (route: RouteOptions, { harmless, keysParameter }: WatchOptions): void {
  const given = route.childLoggerFactory
  route.childLoggerFactory = function watchRequest (logger, bindings, options, raw) {
    const child = (given ?? this.childLoggerFactory).call(this, logger, bindings, options, raw)
    watchRaw(raw as IncomingMessage, harmless, keysParameter)
    readLogLinesApart(child)
    return child
  }
}

function watchRaw (raw: Raw, harmless: IgnoredNames, keysParameter: WatchOptions['keysParameter']): void {
  const reads = new RequestReads(raw.headers, harmless, keysParameter)
  raw[READS] = reads
  // A request that an adapter has made may have none.
  if (Array.isArray(raw.rawHeaders)) setRawHeaders(raw, new Proxy(raw.rawHeaders, new RawHeaders(reads)))
  setHeaders(raw, reads.seenHeaders)
  if (raw.httpVersionMajor >= 2) watchProperties(raw, ['authority'], 'host')
  if (hasClientCertificate(raw)) watchSocket(raw, reads)
}

/** Headers in the form in which nothing is read by name. */
class RawHeaders implements ProxyHandler<string[]> {
  readonly #reads: RequestReads

  constructor (reads: RequestReads) {
    this.#reads = reads
  }

  get (target: string[], name: string | symbol): unknown {
    this.#reads.note(ALL_HEADERS, true)
    return Reflect.get(target, name)
  }
}

/** From here on somebody else reads. The suite itself is given the headers as they are, which is quicker. */
export function readAs (reader: Reader, request: FastifyRequest): void {
  const reads = readsOf(request)
  if (reads === undefined || reads.reader === reader) return
  reads.reader = reader
  const { raw } = request
  const { headers } = raw
  const seen = reader === 'suite' ? reads.headers : reads.seenHeaders
  // A hook may have put others in their place.
  if (headers !== seen && (headers === reads.headers || headers === reads.seenHeaders)) setHeaders(raw, seen)
}

/** The headers, read by the cache for itself while others may read as well. */
export function ownHeaders (request: FastifyRequest): FastifyRequest['headers'] {
  const reads = readsOf(request)
  if (reads === undefined || reads.reader === 'suite') return request.headers
  const before = reads.reader
  readAs('suite', request)
  const { headers } = request
  readAs(before, request)
  return headers
}

/** From here on the handler reads. */
export function handOver (request: FastifyRequest, reply: FastifyReply): void {
  const reads = readsOf(request)
  if (reads === undefined) return
  watchSocket(request.raw, reads)
  readHeaderRulesApart(request, reply.raw)
  readAs('handler', request)
}

const HEADER_RULES = '_isLenientHeaderValidation'

/** With each header that is set Node.js 26 looks for an option of the server, by the socket of the request. */
function readHeaderRulesApart (request: FastifyRequest, response: object): void {
  const read: unknown = Reflect.get(response, HEADER_RULES)
  if (typeof read !== 'function') return
  Reflect.set(response, HEADER_RULES, function (this: unknown) {
    return readingAs('suite', request, () => Reflect.apply(read, this, []) as unknown)
  })
}

/** HTTP/2 has it by a getter alone. */
function setHeaders (raw: Raw, headers: IncomingHttpHeaders): void {
  if (raw.httpVersionMajor < 2) raw.headers = headers
  else Object.defineProperty(raw, 'headers', { value: headers, writable: true, configurable: true })
}

function setRawHeaders (raw: Raw, rawHeaders: string[]): void {
  if (raw.httpVersionMajor < 2) raw.rawHeaders = rawHeaders
  else Object.defineProperty(raw, 'rawHeaders', { value: rawHeaders, writable: true, configurable: true })
}

/** Whether the server asks clients for a certificate: then the socket tells who they are. */
function hasClientCertificate ({ socket }: Raw): boolean {
  const { authorized, authorizationError } = (socket ?? {}) as { authorized?: boolean, authorizationError?: unknown }
  return authorized === true || (authorizationError !== undefined && authorizationError !== null)
}

/** Not before it has to be: to replace a property of a raw request by a getter costs some 10 µs. */
function watchSocket (raw: Raw, reads: RequestReads): void {
  if (reads.isSocketWatched) return
  reads.isSocketWatched = true
  watchProperties(raw, ['socket', 'client', 'stream'], 'request.socket')
}

function watchProperties (raw: Raw, properties: readonly string[], name: string): void {
  for (const property of properties) {
    if (!(property in raw)) continue
    let value: unknown = Reflect.get(raw, property)
    Object.defineProperty(raw, property, {
      get () {
        raw[READS]?.note(name, true)
        return value
      },
      set (given: unknown) { value = given },
      configurable: true,
      enumerable: true
    })
  }
}

const SERIALIZERS = Symbol.for('pino.serializers')
const APART = Symbol('cache.apart')

type Serializer = ((request: unknown) => unknown) & { [APART]?: true }

/** What the serializer of log lines reads of a request goes to the log alone. */
function readLogLinesApart (logger: FastifyBaseLogger): void {
  const serializers = (logger as { [SERIALIZERS]?: { req?: Serializer } })[SERIALIZERS]
  const serialize = serializers?.req
  if (serializers === undefined || serialize === undefined || serialize[APART] === true) return
  const apart: Serializer = request => isRequest(request) ? readingAs('suite', request, () => serialize(request)) : serialize(request)
  apart[APART] = true
  Reflect.set(serializers, 'req', apart)
}

function isRequest (value: unknown): value is FastifyRequest {
  return typeof value === 'object' && value !== null && 'raw' in value && typeof value.raw === 'object' && value.raw !== null
}
