import type {
  CommandArgument, ConnectionStatus, PortEvents, QueuedCommand, RedisNode, RedisPort, Subscriber, SubscriberListener
} from '../../port.js'
import { BYTES, isErrorReply, named, TEXT, wordsOf } from './commands.js'
import { NodeRedisSubscriber } from './subscriber.js'
import type { NodeRedisClient, ServerConnection } from './types.js'

export class Node implements RedisNode {
  readonly keyPrefix = ''
  readonly #connection: ServerConnection
  #wasOpen = false
  /** Counted in replies, as the client does not count bytes. */
  received = 0
  socket: object = {}

  constructor (connection: ServerConnection) {
    this.#connection = connection
    this.#wasOpen = connection.isOpen
    connection.on('ready', () => {
      this.#wasOpen = true
      this.socket = {}
    })
  }

  get address (): string {
    const { socket } = this.#connection.options ?? {}
    return socket?.path ?? `${socket?.host ?? 'localhost'}:${socket?.port ?? 6379}`
  }

  get status (): ConnectionStatus {
    if (this.#connection.isReady) return 'ready'
    if (this.#connection.isOpen) return this.#wasOpen ? 'reconnecting' : 'connecting'
    return this.#wasOpen ? 'end' : 'wait'
  }

  async send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    try {
      const reply = await this.#connection.sendCommand(wordsOf(name, args), asBytes ? BYTES : TEXT)
      this.received++
      return reply as Reply
    } catch (error) {
      if (isErrorReply(error)) this.received++
      throw named(error)
    }
  }
}

/** The client writes all commands of a turn at once. */
export function sendEach (port: Pick<RedisNode, 'send'>, commands: readonly QueuedCommand[]): void {
  for (const { name, args, asBytes, resolve, reject } of commands) port.send(name, args, asBytes).then(resolve, reject)
}

/** `terminated`: the client gives up reconnecting. */
const CLIENT_EVENTS: Record<keyof PortEvents, readonly string[]> = {
  ready: ['ready'],
  close: ['reconnecting', 'end', 'terminated'],
  reconnecting: ['reconnecting'],
  end: ['end', 'terminated'],
  nodeRemoved: []
}

/** The port of a client of `createClient`. */
export class SinglePort extends Node implements RedisPort {
  readonly client: NodeRedisClient
  readonly topology = undefined
  readonly isHttp = false

  constructor (client: NodeRedisClient) {
    super(client)
    this.client = client
  }

  get database (): number {
    return this.client.options?.database ?? 0
  }

  subscriber (listener: SubscriberListener): Subscriber | undefined {
    return this.status === 'end' ? undefined : new NodeRedisSubscriber(this.client, listener)
  }

  sendAll (commands: readonly QueuedCommand[]): void {
    sendEach(this, commands)
  }

  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    for (const name of CLIENT_EVENTS[event]) this.client.on(name, listener)
  }

  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    for (const name of CLIENT_EVENTS[event]) this.client.off(name, listener)
  }
}
