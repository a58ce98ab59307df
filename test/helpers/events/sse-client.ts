import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'

export interface SseClient {
  status: number | undefined
  /** The cookie that the response sets. */
  cookie: string | undefined
  /** The text that has arrived. */
  readonly text: string
  /** Whether the response has ended. */
  readonly isOver: boolean
  /** Stops reading the response. */
  pause: () => void
  hangUp: () => void
}

/** The browser's end of a response with server-sent events, from an app that listens. */
export async function openSse (t: Test, app: FastifyInstance, path: string, cookie?: string): Promise<SseClient> {
  if (!app.server.listening) await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const asked = httpRequest({ port, host: '127.0.0.1', path, headers: cookie === undefined ? {} : { cookie }, agent: false })
  asked.on('error', () => {})
  asked.end()
  t.teardown(() => asked.destroy())
  const [response] = await once(asked, 'response') as [IncomingMessage]
  const client = { status: response.statusCode, cookie: response.headers['set-cookie']?.[0]?.split(';')[0], text: '', isOver: false, pause: () => { response.pause() }, hangUp: () => { asked.destroy() } }
  response.setEncoding('utf8').on('data', (chunk: string) => { client.text += chunk })
  response.on('error', () => {}).on('close', () => { client.isOver = true })
  return client
}
