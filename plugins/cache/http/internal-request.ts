import { IncomingMessage, ServerResponse, type IncomingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { markInternalRequest } from '../../shared/http/internal-requests.js'

/** The parts of a client's request that the request in the background repeats. */
export interface RequestSource {
  /** The URL as the client sent it: `rewriteUrl` is called again. */
  url: string
  headers: IncomingHttpHeaders
  /** Properties of the raw request that only HTTP/2 has. */
  target: Record<string, unknown>
  /** Properties of the connection: its addresses, and whether it is encrypted. */
  connection: Record<string, unknown>
}

const TARGET_PROPERTIES = ['authority', 'scheme']
const CONNECTION_PROPERTIES = ['encrypted', 'remoteAddress', 'remoteFamily', 'remotePort', 'localAddress',
  'localFamily', 'localPort',
  'servername', 'alpnProtocol']
/** Methods of a connection that return data about it. */
const CONNECTION_METHODS = ['address', 'getProtocol', 'getCipher']
const CERTIFICATE_PROPERTIES = ['authorized', 'authorizationError']

/**
 * Copies what is needed to send a request again. It is called while the client's request is under way, as its
 * connection may be closed later.
 *
 * @param withCertificate - whether the client's certificate belongs to the request
 */
export function sourceOf (
  request: FastifyRequest, headers: IncomingHttpHeaders, withCertificate: boolean
): RequestSource {
  const { raw, originalUrl } = request
  // A request that an adapter created may have no socket.
  const socket = raw.socket as Socket | undefined ?? {}
  const properties = withCertificate ? [...CONNECTION_PROPERTIES, ...CERTIFICATE_PROPERTIES] : CONNECTION_PROPERTIES
  const connection: Record<string, unknown> = { ...pick(socket, properties), ...methodsOf(socket) }
  // A hook finds the same certificate, or none, as with a client that has none.
  if (connection['encrypted']) Object.assign(connection, certificateOf(socket, withCertificate))
  const target = raw.httpVersionMajor >= 2 ? pick(raw, TARGET_PROPERTIES) : {}
  return { url: originalUrl, headers, target, connection }
}

/** Returns methods that return what those of the socket return now. */
function methodsOf (socket: object): Record<string, () => unknown> {
  return Object.fromEntries(CONNECTION_METHODS.flatMap(name => {
    const method: unknown = Reflect.get(socket, name)
    if (typeof method !== 'function') return []
    const result: unknown = method.call(socket)
    return [[name, () => result]]
  }))
}

function certificateOf (socket: object, withCertificate: boolean): Record<string, unknown> {
  const read = Reflect.get(socket, 'getPeerCertificate') as ((isDetailed: boolean) => unknown) | undefined
  const certificate = withCertificate && read !== undefined ? read.call(socket, true) : {}
  return { getPeerCertificate: () => certificate }
}

function pick (object: object, names: readonly string[]): Record<string, unknown> {
  const properties = names.map(name => [name, Reflect.get(object, name) as unknown])
  return Object.fromEntries(properties.filter(([, value]) => value !== undefined))
}

/** A GET request that the cache sends to its own app, without a connection. */
interface InternalRequest {
  raw: IncomingMessage
  /**
   * Sends the request, and drops the body of the response. Resolves to the status, or to undefined where the response
   * broke off.
   */
  send (fastify: FastifyInstance): Promise<number | undefined>
  /** Aborts the request, as a client does that disconnects. */
  abort (): void
}

/**
 * Creates a request. `fastify.inject()` would not do: it normalizes the URL, knows no TLS, and can mark a request by a
 * header alone.
 */
export function createInternalRequest ({ url, headers, target, connection }: RequestSource): InternalRequest {
  const properties = Object.getOwnPropertyDescriptors(connection)
  const socket = Object.defineProperties(new NoConnection(), properties) as unknown as Socket
  const raw = Object.assign(new IncomingMessage(socket), {
    method: 'GET',
    url,
    headers,
    rawHeaders: Object.entries(headers).flatMap(([name, value]) => [value ?? []].flat().flatMap(each => [name, each])),
    httpVersionMajor: 1,
    httpVersionMinor: 1,
    httpVersion: '1.1',
    complete: true,
    ...target
  })
  // The request has no body.
  raw.push(null)
  markInternalRequest(raw)
  return {
    raw,
    send: fastify => new Promise(resolve => {
      const response = new ServerResponse(raw)
      response.assignSocket(socket)
      // The server of Node.js forwards this event. Without it a stream that exceeds the socket's buffer would wait for
      // ever.
      socket.on('drain', () => response.emit('drain'))
      response.once('finish', () => {
        resolve(response.statusCode)
        raw.resume()
        socket.destroy()
      })
      response.once('close', () => { resolve(undefined) })
      fastify.routing(raw, response)
    }),
    abort () {
      raw.destroy()
      socket.destroy()
    }
  }
}

/** A socket that drops what is written to it. */
class NoConnection extends Duplex {
  readonly bytesRead = 0
  bytesWritten = 0

  constructor () {
    super()
    // A response that is destroyed with an error destroys its socket as well.
    this.on('error', () => {})
  }

  override _read (): void {}

  override _write ({ length }: Buffer, _encoding: string, done: () => void): void {
    this.bytesWritten += length
    done()
  }

  setTimeout (): this { return this }
  setKeepAlive (): this { return this }
  setNoDelay (): this { return this }
  ref (): this { return this }
  unref (): this { return this }
}
