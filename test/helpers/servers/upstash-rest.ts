import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { EventEmitter, once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { Redis } from 'ioredis'
import { closeServer } from './close-server.js'
import { register, type Stoppable } from '../../../tools/servers/registry.js'

/** A server of Upstash's REST API on a real Redis: single commands, and `/pipeline`. */
export interface UpstashRest extends Stoppable {
  readonly url: string
  readonly token: string
  /** The number of commands of each request so far. */
  readonly requests: number[]
  /** Accepts requests, and does not reply until `resume`. */
  pause (): void
  resume (): void
  /** Refuses connections until `restart`. */
  kill (): Promise<void>
  restart (): Promise<void>
  /** Breaks the connection of the next request, without executing it. */
  breakNext (): void
  /** Replies to each request with this, or as usual again. */
  replyWith (reply: { status: number, body: string } | undefined): void
}

const TOKEN = 'a-secret-token'
/** Commands that need their own connection. */
const NOT_OVER_HTTP = /^(s|p)?(un)?subscribe$|^(b.*(pop|move)|monitor|watch|multi|exec|select|hello|auth)$/

export async function startUpstashRest (redisUrl: string): Promise<UpstashRest> {
  const redis = new Redis(redisUrl)
  const requests: number[] = []
  let isNextBroken = false
  let fixed: { status: number, body: string } | undefined
  const events = new EventEmitter()
  let isPaused = false
  let port = 0

  const run = async (command: unknown[], isEncoded: boolean): Promise<object> => {
    try {
      const [name = '', ...args] = command.map(String)
      if (NOT_OVER_HTTP.test(name.toLowerCase())) throw new Error(`ERR ${name} is not available over HTTP`)
      return { result: encode(await redis.callBuffer(name, ...args), isEncoded) }
    } catch (error) {
      return { error: (error as Error).message }
    }
  }

  const replyTo = async (request: IncomingMessage): Promise<{ status: number, body: string }> => {
    const body = JSON.parse(await text(request)) as unknown[]
    if (isPaused) await once(events, 'resume')
    if (isNextBroken) {
      isNextBroken = false
      throw new Error('broken')
    }
    if (fixed !== undefined) return fixed
    if (request.headers.authorization !== `Bearer ${TOKEN}`) {
      return { status: 401, body: JSON.stringify({ error: 'WRONGPASS invalid or missing auth token' }) }
    }
    const isEncoded = request.headers['upstash-encoding'] === 'base64'
    const isSingle = request.url === '/'
    const commands = (isSingle ? [body] : body) as unknown[][]
    requests.push(commands.length)
    // One connection executes them in this order.
    const results = await Promise.all(commands.map(command => run(command, isEncoded)))
    const status = isSingle && 'error' in results[0]! ? 400 : 200
    return { status, body: JSON.stringify(isSingle ? results[0] : results) }
  }

  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    replyTo(request).then(
      ({ status, body }) => response.writeHead(status, { 'content-type': 'application/json' }).end(body),
      () => response.destroy())
  })
  const listen = async (): Promise<void> => { await once(server.listen(port, '127.0.0.1'), 'listening') }
  await listen()
  port = (server.address() as AddressInfo).port
  const rest: UpstashRest = {
    url: `http://127.0.0.1:${port}`,
    token: TOKEN,
    requests,
    pause () { isPaused = true },
    resume () {
      isPaused = false
      events.emit('resume')
    },
    kill: () => closeServer(server),
    restart: listen,
    breakNext () { isNextBroken = true },
    replyWith (reply) { fixed = reply },
    async stop () {
      redis.disconnect()
      events.emit('resume')
      await closeServer(server)
    }
  }
  register(rest)
  return rest
}

/** In base64, but for numbers, nil and the status `OK`. */
function encode (reply: unknown, isEncoded: boolean): unknown {
  if (Array.isArray(reply)) return reply.map(each => encode(each, isEncoded))
  if (!Buffer.isBuffer(reply)) return reply
  const text = reply.toString()
  return isEncoded && text !== 'OK' ? reply.toString('base64') : text
}
