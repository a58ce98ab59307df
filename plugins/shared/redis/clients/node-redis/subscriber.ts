import type { Subscriber, SubscriberListener, SubscribeVerb } from '../../port.js'
import { named } from './commands.js'
import type { ServerConnection, Listener, NodeRedisClient, NodeRedisCluster, NodeRedisSentinel } from './types.js'

const CONNECT_TIMEOUT_MS = 5000

/** Closes a client at once. An attempt to connect that is under way would succeed after it, and is closed then. */
export function destroy (client: ServerConnection | NodeRedisCluster | NodeRedisSentinel): void {
  if (!client.isOpen) return
  if ('getMasterNode' in client) {
    client.destroy().catch(() => {})
    return
  }
  client.once('connect', () => {
    // Version 5 does so by rejecting the commands of the handshake, which are queued by the end of this turn.
    setImmediate(() => {
      try {
        client.destroy()
      } catch {
        // It also throws an error, as the client was closed before.
      }
    })
  })
  client.destroy()
}

const SUBSCRIBE = { subscribe: 'subscribe', psubscribe: 'pSubscribe', ssubscribe: 'sSubscribe' } as const
const UNSUBSCRIBE = { subscribe: 'unsubscribe', psubscribe: 'pUnsubscribe', ssubscribe: 'sUnsubscribe' } as const

export class NodeRedisSubscriber implements Subscriber {
  readonly connectTimeout: number
  readonly #client: NodeRedisClient
  readonly #listener: SubscriberListener
  /** When the client has the reply to an unsubscription, it forgets all listeners of the channel, also newer ones. */
  readonly #leaving = new Map<string, Promise<unknown>>()

  constructor (origin: NodeRedisClient, listener: SubscriberListener) {
    const { socket } = origin.options ?? {}
    this.connectTimeout = socket?.connectTimeout ?? CONNECT_TIMEOUT_MS
    this.#listener = listener
    this.#client = origin.duplicate({
      // It may be idle for long, and its owner sends PINGs.
      socket: { ...socket, reconnectStrategy: false, socketTimeout: undefined },
      disableOfflineQueue: true,
      pingInterval: undefined,
      // It would be that of the client, or one more.
      clientSideCache: undefined
    })
    const client = this.#client
    const end = (): void => listener.ended()
    // The client that it was duplicated from reports connection errors.
    client.on('error', end)
    client.on('connect', () => listener.connected?.())
    client.on('ready', () => listener.ready())
    client.on('end', end)
    client.on('terminated', end)
    // A slot has moved to another server.
    client.on('sharded-channel-moved', end)
    client.connect().catch(end)
  }

  get isReady (): boolean {
    return this.#client.isReady
  }

  async subscribe (verb: SubscribeVerb, channel: string): Promise<void> {
    const onMessage: Listener = (text, from) => this.#listener.message(channel, from, text)
    try {
      await this.#leaving.get(channel)
      await this.#client[SUBSCRIBE[verb]](channel, onMessage)
    } catch (error) {
      throw named(error)
    }
  }

  async unsubscribe (verb: SubscribeVerb, channel: string): Promise<void> {
    const left = this.#client[UNSUBSCRIBE[verb]](channel)
    const settled = left.catch(() => {}).finally(() => {
      if (this.#leaving.get(channel) === settled) this.#leaving.delete(channel)
    })
    this.#leaving.set(channel, settled)
    await left
  }

  async ping (): Promise<void> {
    try {
      await this.#client.ping()
    } catch (error) {
      throw named(error)
    }
  }

  close (): void {
    destroy(this.#client)
  }
}
