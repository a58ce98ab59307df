// Clients as a server sees them from outside: each with its own address and cookies, over whichever transport.
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http'
import { connect, type ClientHttp2Session } from 'node:http2'
import { request as httpsRequest } from 'node:https'
import { buffer } from 'node:stream/consumers'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'

export type Headers = Record<string, string>

export interface Call {
  method: string
  url: string
  headers: Headers
  body: Buffer | undefined
}

export interface Response {
  status: number
  headers: IncomingHttpHeaders
  bytes: Buffer
}

/** Sends one request from the client's address. */
export type Send = (call: Call) => Promise<Response>

/** @returns a function that sends the requests of the client with this address */
export type Transport = (address: string) => Send

/** Without a socket, for behaviour that does not depend on one. */
export function injected (app: FastifyInstance): Transport {
  return remoteAddress => async ({ body: payload, method, ...call }) => {
    const { statusCode, headers, rawPayload } = await app.inject({ ...call, method: method as 'GET', remoteAddress, ...payload && { payload } })
    return { status: statusCode, headers: headers as IncomingHttpHeaders, bytes: rawPayload }
  }
}

export interface Target {
  /** Origin, such as `https://127.0.0.1:3000`. */
  origin: string
  /** The certificate to trust. */
  ca?: string | undefined
  /** The unix socket to connect to in place of the origin's port. */
  socketPath?: string | undefined
}

/** HTTP/1.1, with TLS for an https origin. */
export function http1 ({ origin, ca, socketPath }: Target): Transport {
  const { protocol, hostname, host, port } = new URL(origin)
  const request = protocol === 'https:' ? httpsRequest : httpRequest
  return address => async ({ url, body, headers, method }) => {
    const way = socketPath === undefined ? { hostname, port, localAddress: address } : { socketPath }
    const sent = request({ ...way, ca, method, path: url, agent: false, headers: { host, ...headers, ...body && { 'content-length': String(body.length) } } })
    return await new Promise((resolve, reject) => {
      sent.once('error', reject).once('response', response => {
        buffer(response).then(bytes => { resolve({ status: response.statusCode ?? 0, headers: response.headers, bytes }) }, reject)
      }).end(body)
    })
  }
}

/** HTTP/2, with one session per client, which ends with the test. */
export function http2 (t: Test, { origin, ca }: Target): Transport {
  return address => {
    let session: ClientHttp2Session | undefined
    t.teardown(() => session?.destroy())
    return async ({ url, body, headers, method }) => {
      session ??= connect(origin, { ca, localAddress: address } as object).on('error', () => {})
      const stream = session.request({ ':path': url, ':method': method, ...headers }, { endStream: body === undefined })
      return await new Promise((resolve, reject) => {
        stream.once('error', reject).once('response', ({ ':status': status = 0, ...headers }) => {
          buffer(stream).then(bytes => { resolve({ status, headers: headers as IncomingHttpHeaders, bytes }) }, reject)
        })
        if (body !== undefined) stream.end(body)
      })
    }
  }
}

export interface Answer extends Response {
  cache: string | undefined
  body: string
  /** The session's `Set-Cookie`. */
  cookie: string | undefined
  json: () => Record<string, unknown>
}

/** A browser with its own address and cookies. */
export class Visitor {
  /** How many requests it has sent. */
  sent = 0
  readonly name: string
  readonly headers: Headers
  readonly #send: Send
  readonly #cookies = new Map<string, string>()

  constructor (name: string, send: Send, headers: Headers = {}) {
    this.name = name
    this.headers = headers
    this.#send = send
  }

  get cookies (): string[] {
    return [...this.#cookies.keys()]
  }

  async get (url: string, headers: Headers = {}): Promise<Answer> {
    return await this.#ask('GET', url, headers)
  }

  async post (url: string, body: object | Buffer = {}, headers: Headers = {}): Promise<Answer> {
    const isBytes = body instanceof Uint8Array
    return await this.#ask('POST', url, { ...!isBytes && { 'content-type': 'application/json' }, ...headers }, isBytes ? body : Buffer.from(JSON.stringify(body)))
  }

  async #ask (method: string, url: string, headers: Headers, body?: Buffer): Promise<Answer> {
    this.sent++
    const cookie = [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await this.#send({ method, url, body, headers: { ...this.headers, ...cookie !== '' && { cookie }, ...headers } })
    const set = [response.headers['set-cookie'] ?? []].flat()
    for (const line of set) this.#keep(line)
    const text = response.bytes.toString()
    return { ...response, cache: response.headers['x-cache'] as string | undefined, body: text, cookie: set.find(line => line.startsWith('sid=')), json: () => JSON.parse(text) }
  }

  #keep (line: string): void {
    const [pair = ''] = line.split(';', 1)
    const at = pair.indexOf('=')
    const expires = /expires=([^;]+)/i.exec(line)?.[1]
    const isCleared = /max-age=0\b/i.test(line) || (expires !== undefined && Date.parse(expires) <= Date.now())
    if (isCleared) this.#cookies.delete(pair.slice(0, at))
    else this.#cookies.set(pair.slice(0, at), pair.slice(at + 1))
  }
}
