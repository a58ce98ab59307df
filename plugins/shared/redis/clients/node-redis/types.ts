import type { EventEmitter } from 'node:events'

export type Argument = string | Buffer
export type Listener = (text: string, channel: string) => void

export interface ReplyMapping {
  /** How values of a type are returned, by the first byte of its encoding. */
  typeMapping?: Record<number, unknown>
}

interface ClientSettings {
  database?: number
  socket?: { host?: string, port?: number, path?: string, connectTimeout?: number }
  RESP?: number
  maintNotifications?: unknown
}

/** The members by which a connection to one server is used. */
export interface ServerConnection extends EventEmitter {
  readonly isOpen: boolean
  readonly isReady: boolean
  readonly options?: ClientSettings | undefined
  sendCommand (args: Argument[], options?: ReplyMapping): Promise<unknown>
  connect (): Promise<unknown>
  /** Sends what is queued, and closes. */
  close (): Promise<unknown>
  destroy (): void
}

/** The members of a client of `createClient` that are used. */
export interface NodeRedisClient extends ServerConnection {
  /** Whether it has subscriptions. */
  readonly isPubSubActive: boolean
  duplicate (overrides?: object): NodeRedisClient
  subscribe (channel: string, listener: Listener): Promise<unknown>
  pSubscribe (pattern: string, listener: Listener): Promise<unknown>
  sSubscribe (channel: string, listener: Listener): Promise<unknown>
  unsubscribe (channel: string): Promise<unknown>
  pUnsubscribe (pattern: string): Promise<unknown>
  sUnsubscribe (channel: string): Promise<unknown>
  ping (): Promise<unknown>
}

/** A node of a Cluster. It has no client until it is used. */
export interface ClusterNode {
  readonly address: string
  readonly client?: NodeRedisClient
}

/** The members of a client of `createCluster` that are used. */
export interface NodeRedisCluster extends EventEmitter {
  readonly isOpen: boolean
  /** The options that it was made with. */
  readonly _options?: { rootNodes?: ReadonlyArray<{ url?: string, socket?: { host?: string, port?: number } }> }
  readonly masters: readonly ClusterNode[]
  readonly replicas: readonly ClusterNode[]
  readonly slots: ReadonlyArray<{ master: ClusterNode } | undefined>
  nodeClient (node: ClusterNode): NodeRedisClient | Promise<NodeRedisClient>
  sendCommand (key: string | undefined, isReadonly: boolean, args: Argument[], options?: ReplyMapping):
  Promise<unknown>
  connect (): Promise<unknown>
  /** Sends what is queued, and closes. */
  close (): Promise<unknown>
  destroy (): void
}

/** The members of a client of `createSentinel` that are used. */
export interface NodeRedisSentinel extends EventEmitter {
  readonly isOpen: boolean
  /** Returns the address of the master, while the client is connected to it. */
  getMasterNode (): { host: string, port: number } | undefined
  sendCommand (isReadonly: boolean, args: Argument[], options?: ReplyMapping): Promise<unknown>
  /** Lends the connection to the master. It is called again with the next master where the function throws READONLY. */
  _execute<T> (isReadonly: boolean, call: (master: NodeRedisClient) => Promise<T>): Promise<T>
  connect (): Promise<unknown>
  /** Sends what is queued, and closes. */
  close (): Promise<unknown>
  destroy (): Promise<unknown>
}

/** A client of node-redis. Its own type is large, and this is what it is recognized by. */
export interface NodeRedis {
  readonly isOpen: boolean
  sendCommand: (...args: never[]) => unknown
  connect: () => Promise<unknown>
}
