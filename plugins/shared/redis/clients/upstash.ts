import { EventEmitter } from 'node:events'
import { replyError } from '../../plugin/errors.js'
import type { CommandArgument, ConnectionStatus, PortEvents, QueuedCommand, RedisPort } from '../port.js'
import { wordsWithBytes } from './bytes-as-text.js'

/** A client of `fromUpstash`. Its own type is large, and this is what it is known by. */
export interface UpstashClient {
  readonly readYourWritesSyncToken: string | undefined
  evalsha: (...args: never[]) => unknown
  pipeline: (...args: never[]) => unknown
  multi: (...args: never[]) => unknown
}

/** A request of the package `@upstash/redis`, whose body is sent and returned as JSON. */
interface RestRequest {
  path: string[]
  body: unknown
  headers: Record<string, string>
}

/** Sends a request, once. */
export type Requester = (request: RestRequest) => Promise<unknown>

interface Waiting {
  readonly words: readonly string[]
  readonly asBytes: boolean
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: unknown) => void
}

/** A request above 1 MB is refused, by the smallest plans. */
const MAX_REQUEST_LENGTH = 512 * 1024
const HEADERS = { 'Upstash-Encoding': 'base64' }

const connections = new WeakMap<object, RestConnection>()

/** Makes a client of `@upstash/redis` one that the plugins can use. */
export function connectUpstash (client: UpstashClient, url: string, request: Requester): void {
  connections.set(client, new RestConnection(new URL(url).host, request))
}

/** Whether a value is a client of `fromUpstash`. */
export function isUpstash (value: object): value is UpstashClient {
  return connections.has(value)
}

/** Whether a value is a client of `@upstash/redis` itself, which decodes replies as text. */
export function isForeignUpstash (value: object): boolean {
  return !isUpstash(value) && 'readYourWritesSyncToken' in value && 'evalsha' in value && 'multi' in value
}

/** Returns the connection of a client of `fromUpstash`. */
export function restOf (client: UpstashClient): RestConnection {
  return connections.get(client)!
}

/** Collects the commands of a turn of the event loop, and sends them in one request. */
class RestConnection {
  readonly host: string
  readonly #request: Requester
  #waiting: Waiting[] = []
  #isScheduled = false
  /** The number of replies. */
  received = 0
  /** `close` and `ready`, when a connection was lost and a request is sent again over another one. */
  readonly events = new EventEmitter()

  constructor (host: string, request: Requester) {
    this.host = host
    this.#request = request
  }

  /** Sends a command when the turn ends, or with the next {@link flush}. */
  sendCommand (name: string, args: readonly CommandArgument[], asBytes: boolean): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ words: wordsWithBytes(name, args), asBytes, resolve, reject })
      if (this.#isScheduled) return
      this.#isScheduled = true
      setImmediate(() => this.flush())
    })
  }

  flush (): void {
    const waiting = this.#waiting
    this.#waiting = []
    this.#isScheduled = false
    for (const batch of ofRequestSize(waiting)) this.#send(batch)
  }

  /** A request that is sent again may have been executed, as a command of the other clients. */
  async #post (request: RestRequest): Promise<unknown> {
    try {
      return await this.#request(request)
    } catch (error) {
      if (!isConnectionLost(failureOf(error))) throw error
      this.events.emit('close')
      this.events.emit('ready')
      return await this.#request(request)
    }
  }

  /** Settles each command, and never rejects. */
  async #send (batch: readonly Waiting[]): Promise<void> {
    try {
      const body = batch.map(({ words }) => words)
      const results = await this.#post({ path: ['pipeline'], body, headers: HEADERS })
      if (!Array.isArray(results) || results.length !== batch.length) throw new Error('the reply is no list of results')
      this.received += results.length
      for (const [i, { asBytes, resolve, reject }] of batch.entries()) {
        const { result, error } = Object(results[i]) as { result?: unknown, error?: unknown }
        if (typeof error === 'string') reject(replyError(error))
        else resolve(decode(result, asBytes))
      }
    } catch (thrown) {
      const error = failureOf(thrown)
      if (error.name === 'ReplyError') this.received++
      for (const { reject } of batch) reject(error)
    }
  }
}

/** Whether a connection of the pool broke, as one that the server was about to close. */
function isConnectionLost (error: unknown): boolean {
  const { code } = Object(error) as { code?: unknown }
  return code === 'UND_ERR_SOCKET' || code === 'ECONNRESET' || code === 'EPIPE'
}

/** Divides commands among requests. A request has at least one. */
function * ofRequestSize (waiting: readonly Waiting[]): Generator<readonly Waiting[]> {
  let batch: Waiting[] = []
  let length = 0
  for (const command of waiting) {
    const own = command.words.reduce((sum, word) => sum + word.length, 0)
    if (batch.length > 0 && length + own > MAX_REQUEST_LENGTH) {
      yield batch
      batch = []
      length = 0
    }
    batch.push(command)
    length += own
  }
  if (batch.length > 0) yield batch
}

/** All texts are in base64, but for the status `OK`. */
function decode (result: unknown, asBytes: boolean): unknown {
  if (Array.isArray(result)) return result.map(each => decode(each, asBytes))
  if (typeof result !== 'string') return result ?? null
  const bytes = result === 'OK' ? Buffer.from(result) : Buffer.from(result, 'base64')
  return asBytes ? bytes : bytes.toString()
}

/** Returns why a request failed, without the commands, which the package's own errors repeat. */
function failureOf (thrown: unknown): Error {
  if (!(thrown instanceof Error)) return new Error(String(thrown))
  if (thrown.name === 'UpstashJSONParseError') return new Error('the reply is no JSON')
  if (thrown.name === 'UpstashError') {
    const message = thrown.message.replace(/, command was: .*$/s, '')
    return /^(ERR|WRONGPASS|NOPERM|NOAUTH) /.test(message) ? replyError(message) : new Error(message)
  }
  // The error of `fetch` says nothing, and its cause is that of the socket.
  return thrown.cause instanceof Error ? thrown.cause : thrown
}

/** A client that sends commands over HTTP. */
class UpstashPort implements RedisPort {
  readonly client: UpstashClient
  readonly topology = undefined
  readonly isHttp = true
  readonly database = 0
  readonly keyPrefix = ''
  readonly status: ConnectionStatus = 'ready'
  readonly socket = {}
  readonly #rest: RestConnection

  constructor (client: UpstashClient) {
    this.client = client
    this.#rest = restOf(client)
  }

  get address (): string {
    return this.#rest.host
  }

  get received (): number {
    return this.#rest.received
  }

  send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    return this.#rest.sendCommand(name, args, asBytes) as Promise<Reply>
  }

  sendAll (commands: readonly QueuedCommand[]): void {
    for (const { name, args, asBytes, resolve, reject } of commands) {
      this.#rest.sendCommand(name, args, asBytes).then(resolve, reject)
    }
    this.#rest.flush()
  }

  subscriber (): undefined {}

  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    this.#rest.events.on(event, listener)
  }

  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    this.#rest.events.off(event, listener)
  }
}

export function createUpstashPort (client: UpstashClient): RedisPort {
  return new UpstashPort(client)
}
