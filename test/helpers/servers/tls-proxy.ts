// A reverse proxy that terminates TLS, as in front of most apps.
import { once } from 'node:events'
import { request } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Certificate } from './certificate.js'
import { register, unregister } from '../../../tools/servers/registry.js'
import { closeServer } from './close-server.js'

export interface TlsProxyOptions extends Certificate {
  /** The app's port on 127.0.0.1, or the path of its unix socket. */
  target: { port: number } | { socketPath: string }
  /** Whether `X-Forwarded-For` has the client's port as well, as some load balancers append it. @default false */
  appendsPort?: boolean
}

export interface TlsProxy {
  origin: string
  stop (): Promise<void>
}

/** The app receives the proxy's own `Host`; the client's is in `X-Forwarded-Host`. */
export async function startTlsProxy ({ cert, key, target, appendsPort = false }: TlsProxyOptions): Promise<TlsProxy> {
  const server = createServer({ cert, key }, (incoming, outgoing) => {
    const { remoteAddress = '', remotePort } = incoming.socket
    const { host = '', ...headers } = incoming.headers
    const forwarded = { 'x-forwarded-for': appendsPort ? `${remoteAddress}:${remotePort}` : remoteAddress, 'x-forwarded-host': host, 'x-forwarded-proto': 'https' }
    const passed = request({ host: '127.0.0.1', ...target, method: incoming.method, path: incoming.url, agent: false, headers: { ...headers, ...forwarded, host: 'app.internal' } }, response => {
      outgoing.writeHead(response.statusCode ?? 502, response.headers)
      response.pipe(outgoing)
    })
    passed.on('error', () => outgoing.destroy())
    incoming.pipe(passed)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: TlsProxy = {
    origin: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async stop () {
      unregister(proxy)
      await closeServer(server)
    }
  }
  register(proxy)
  return proxy
}
