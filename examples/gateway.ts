// A gateway before another server. Run it with `ORIGIN=http://localhost:8000 npx tsx examples/gateway.ts`.
import { METHODS } from 'node:http'
import { pathToFileURL } from 'node:url'
import proxy from '@fastify/http-proxy'
import type { FastifyInstance } from 'fastify'
import Fastify from 'fastify'

type Headers = Record<string, string | string[] | undefined>

// Of one connection, not of the message. Trailers are not passed on, so that none must be announced.
const HOP_BY_HOP = ['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']

export async function build (origin = process.env['ORIGIN'] ?? 'http://localhost:8000') {
  const app = createApp()
  await passThrough(app, origin)
  return app
}

export function createApp (): FastifyInstance {
  // The origin answers HEAD itself: a route of Fastify's own would ask it for the body.
  return Fastify({ exposeHeadRoutes: false, logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
}

/** All that reaches the app goes to the origin, and its answer back, as they are. */
export async function passThrough (app: FastifyInstance, origin: string): Promise<void> {
  const more = METHODS.filter(method => method !== 'CONNECT' && !app.supportedMethods.includes(method))
  for (const method of more) app.addHttpMethod(method, { hasBody: method !== 'TRACE' })
  // The proxy has parsers of its own, which leave a body the stream it is.
  app.removeAllContentTypeParsers()
  await app.register(proxy, {
    upstream: origin,
    httpMethods: app.supportedMethods,
    // Whether to ask again is the client's decision; an error of the origin is an answer.
    retryMethods: [],
    internalRewriteLocationHeader: false,
    replyOptions: {
      rewriteHeaders: endToEnd,
      // Node.js has answered `Expect: 100-continue` by now.
      rewriteRequestHeaders: (_request, headers) => ({ ...endToEnd(headers), expect: undefined })
    }
  })
}

/** Without the headers that are for the next hop only, among them those that `Connection` names. */
function endToEnd (headers: Headers): Headers {
  const named = String(headers['connection'] ?? '').toLowerCase().split(',').map(name => name.trim())
  const dropped = new Set([...HOP_BY_HOP, ...named])
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !dropped.has(name)))
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
