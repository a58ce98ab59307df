// A caching gateway in front of another server. Run it with `ORIGIN=http://localhost:8000 npx tsx examples/gateway.ts`.
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe } from 'node:diagnostics_channel'
import { METHODS, type ClientRequest, type ServerResponse } from 'node:http'
import { pathToFileURL } from 'node:url'
import type { FastifyHttpProxyOptions } from '@fastify/http-proxy'
import proxy from '@fastify/http-proxy'
import type { FastifyInstance } from 'fastify'
import Fastify from 'fastify'
import { cache, redis } from '../plugins/index.js'
import type { Clock } from '../plugins/testing/index.js'

type Hooks = NonNullable<FastifyHttpProxyOptions['replyOptions']>
type Headers = Record<string, string | string[] | undefined>

// Fields of the connection, and not of the message. Trailers are dropped, which RFC 9110 §6.5.1 allows: a cache may
// respond with a 304, and Node.js throws on trailers without a body.
const HOP_BY_HOP = ['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'upgrade']
// Fastify parses no body of these methods, so their requests must not announce one.
const BODILESS = ['GET', 'HEAD']

export interface GatewayOptions {
  /** @default `ORIGIN`, or port 8000 of this machine */
  origin?: string
  /** An empty string caches in the memory of this process. @default `REDIS_URL` */
  redisUrl?: string
  /** For tests. @default the system's clock */
  clock?: Clock
}

export async function build (
  {
    origin = process.env['ORIGIN'] ?? 'http://localhost:8000', redisUrl: url = process.env['REDIS_URL'] ?? '', clock
  }: GatewayOptions = {}
) {
  const app = createApp()
  if (url !== '') await app.register(redis, { url, prefix: 'gateway', clock })
  // A shared cache as RFC 9111 defines it: the origin's header fields decide, and nothing else.
  await app.register(cache, {
    clock,
    global: true,
    ttl: 'headers',
    heuristic: 0.1,
    requestDirectives: 'obey',
    staleIfError: '1 day',
    storeSetCookie: true,
    etag: false,
    key: { host: true },
    unkeyed: false
  })
  await passThrough(app, origin)
  return app
}

export function createApp (): FastifyInstance {
  // The origin responds to HEAD itself: a HEAD route of Fastify would request the body.
  return Fastify({ exposeHeadRoutes: false, logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
}

const answering = new AsyncLocalStorage<ServerResponse>()

// The proxy handles final responses only: interim ones (RFC 9110 §15.2) are forwarded here.
subscribe('http.client.request.start', message => {
  const { request } = message as { request: ClientRequest }
  const response = answering.getStore()
  request.on('information', ({ statusCode, headers }) => {
    if (response === undefined || response.headersSent) return
    if (statusCode === 103) response.writeEarlyHints(headers as Record<string, string | string[]>)
    if (statusCode === 102) response.writeProcessing()
  })
})

/** Forwards every request to the origin, and its response to the client, unchanged. */
export async function passThrough (app: FastifyInstance, origin: string): Promise<void> {
  const more = METHODS.filter(method => method !== 'CONNECT' && !app.supportedMethods.includes(method))
  for (const method of more) app.addHttpMethod(method, { hasBody: method !== 'TRACE' })
  app.addHook('onRequest', (_request, reply, done) => answering.run(reply.raw, done))
  // The proxy has its own parsers, which leave bodies as streams.
  app.removeAllContentTypeParsers()
  await app.register(proxy, {
    upstream: origin,
    httpMethods: app.supportedMethods,
    // Undici would treat the Content-Length of a 304 as a missing body. Idle connections are closed before the origin
    // closes them (Node.js: after 5 seconds): a request in flight would fail.
    http: { requestOptions: { joinDuplicateHeaders: true }, agentOptions: { timeout: 3000 } },
    // Retries are the client's decision; an error response of the origin is a response.
    retryMethods: [],
    internalRewriteLocationHeader: false,
    replyOptions: {
      rewriteRequestHeaders: ({ method }, headers) => forOrigin(method, headers),
      rewriteHeaders: forClient,
      ...oneAnswer()
    }
  })
}

// An origin may send more bytes than its Content-Length. The response is complete, so the error that follows is not
// reported.
function oneAnswer (): Pick<Hooks, 'onResponse' | 'onError'> {
  const answered = new WeakSet<object>()
  return {
    onResponse (_request, reply, { stream }) {
      answered.add(reply)
      reply.send(stream)
    },
    onError (reply, { error }) {
      const statusCode = 'statusCode' in error && error.statusCode === 504 ? 504 : 502
      if (!answered.has(reply)) reply.send(Object.assign(error, { statusCode }))
    }
  }
}

// The proxy has dropped `Connection` and the fields that it names; Node.js has handled `Expect: 100-continue`.
function forOrigin (method: string, headers: Headers): Headers {
  const length = BODILESS.includes(method) ? ['content-length', 'transfer-encoding'] : []
  return without(headers, [...HOP_BY_HOP, 'expect', ...length])
}

function forClient (headers: Headers): Headers {
  return without(headers, [...HOP_BY_HOP, 'transfer-encoding', ...tokens(headers['connection'])])
}

function tokens (value: string | string[] | undefined): string[] {
  return String(value ?? '').toLowerCase().split(',').map(token => token.trim()).filter(token => token !== '')
}

function without (headers: Headers, names: string[]): Headers {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !names.includes(name)))
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
