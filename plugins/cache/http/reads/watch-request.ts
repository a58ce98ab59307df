import type { IncomingMessage } from 'node:http'
import type { FastifyBaseLogger, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { readingAs, READS, type Reader } from '../../../shared/http/read-recorder.js'
import type { IgnoredNames } from './ignored-names.js'
import { ALL_HEADERS, RequestReads } from './request-reads.js'

type Raw = IncomingMessage & { [READS]?: RequestReads }

/** Returns the recorder of a request; undefined where its route is not watched. */
export function readsOf (request: Pick<FastifyRequest, 'raw'>): RequestReads | undefined {
  return (request.raw as Raw)[READS]
}

interface WatchOptions {
  harmless: IgnoredNames
  /** Whether a query parameter is a part of the key; undefined: all are. */
  keysParameter: ((name: string) => boolean) | undefined
}

/**
 * Watches the requests of a route from before their first hook: Fastify calls `childLoggerFactory` before any other
 * function of a route.
 */
export function watchRoute (route: RouteOptions, { harmless, keysParameter }: WatchOptions): void {
  const given = route.childLoggerFactory
  route.childLoggerFactory = function watchRequest (logger, bindings, options, raw) {
    const child = (given ?? this.childLoggerFactory).call(this, logger, bindings, options, raw)
    watchRaw(raw as Raw, new RequestReads((raw as Raw).headers, harmless, keysParameter))
    excludeLogLines(child)
    return child
  }
}

function watchRaw (raw: Raw, reads: RequestReads): void {
  raw[READS] = reads
  // A request that an adapter created may have no raw headers.
  if (Array.isArray(raw.rawHeaders)) setProperty(raw, 'rawHeaders', new Proxy(raw.rawHeaders, new RawHeaders(reads)))
  setProperty(raw, 'headers', reads.watchedHeaders)
  if (raw.httpVersionMajor >= 2) watchProperties(raw, ['authority'], 'host')
  // The socket identifies the client if the server asks for client certificates.
  const socket = (raw.socket ?? {}) as { authorized?: boolean, authorizationError?: unknown }
  const { authorized, authorizationError } = socket
  if (authorized === true || (authorizationError !== undefined && authorizationError !== null)) watchSocket(raw, reads)
}

/** Watches `rawHeaders`, in which headers are not read by name. */
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

/**
 * Records reads from now on as those of `reader`. The suite itself reads the headers unwatched, which is faster.
 *
 * @returns the recorder of the request; undefined where its route is not watched
 */
export function readAs (reader: Reader, { raw }: FastifyRequest): RequestReads | undefined {
  const reads = (raw as Raw)[READS]
  if (reads === undefined || reads.reader === reader) return reads
  reads.reader = reader
  const { headers } = raw
  const wanted = reader === 'suite' ? reads.headers : reads.watchedHeaders
  // A hook may have replaced the headers.
  if (headers !== wanted && (headers === reads.headers || headers === reads.watchedHeaders)) {
    setProperty(raw, 'headers', wanted)
  }
  return reads
}

/** Returns the headers for the cache itself, while hooks or the handler may read as well. */
export function ownHeaders (request: FastifyRequest): FastifyRequest['headers'] {
  const reads = readsOf(request)
  if (reads === undefined || reads.reader === 'suite') return request.headers
  const before = reads.reader
  readAs('suite', request)
  const { headers } = request
  readAs(before, request)
  return headers
}

/** Records reads from now on as those of the handler. */
export function handOver (request: FastifyRequest, reply: FastifyReply, reads: RequestReads): void {
  watchSocket(request.raw, reads)
  excludeHeaderRules(request, reply.raw)
  readAs('handler', request)
}

const HEADER_RULES = '_isLenientHeaderValidation'

/**
 * Node.js 26 reads an option of the server by the socket of the request, with each header that is set: these reads do
 * not count.
 */
function excludeHeaderRules (request: FastifyRequest, response: object): void {
  const read: unknown = Reflect.get(response, HEADER_RULES)
  if (typeof read !== 'function') return
  Reflect.set(response, HEADER_RULES, function (this: unknown) {
    return readingAs('suite', request, () => Reflect.apply(read, this, []) as unknown)
  })
}

/** Sets a property that is a getter in HTTP/2. */
function setProperty<Name extends 'headers' | 'rawHeaders'> (raw: Raw, name: Name, value: Raw[Name]): void {
  if (raw.httpVersionMajor < 2) raw[name] = value
  else Object.defineProperty(raw, name, { value, writable: true, configurable: true })
}

/** Watches the socket, as late as possible: to replace a property of a raw request by a getter takes some 10 µs. */
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
const EXCLUDED = Symbol('cache.excluded')

type Serializer = ((request: unknown) => unknown) & { [EXCLUDED]?: true }

/** Excludes what the serializer of log lines reads of a request: it does not change the response. */
function excludeLogLines (logger: FastifyBaseLogger): void {
  const serializers = (logger as { [SERIALIZERS]?: { req?: Serializer } })[SERIALIZERS]
  const serialize = serializers?.req
  if (serializers === undefined || serialize === undefined || serialize[EXCLUDED] === true) return
  const excluded: Serializer = request => {
    return isRequest(request) ? readingAs('suite', request, () => serialize(request)) : serialize(request)
  }
  excluded[EXCLUDED] = true
  Reflect.set(serializers, 'req', excluded)
}

function isRequest (value: unknown): value is FastifyRequest {
  return typeof value === 'object' && value !== null && 'raw' in value && typeof value.raw === 'object' &&
    value.raw !== null
}
