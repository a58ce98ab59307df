import type { EventEmitter } from 'node:events'
import calculateSlot from 'cluster-key-slot'
import type {
  CommandArgument, ConnectionStatus, PortEvents, QueuedCommand, RedisNode, RedisPort, Subscriber, SubscriberListener,
  SubscribeVerb, Topology
} from '../port.js'

type Argument = string | Buffer
type Listener = (text: string, channel: string) => void

interface CommandOptions {
  /** How values of a type are returned, by the first byte of its encoding. */
  typeMapping?: Record<number, unknown>
}

/** The members of a client of `createClient` that are used. */
interface NodeRedisClient extends EventEmitter {
  readonly isOpen: boolean
  readonly isReady: boolean
  readonly options?: {
    database?: number
    url?: string
    socket?: { host?: string, port?: number, path?: string, connectTimeout?: number }
  }
  sendCommand (args: Argument[], options?: CommandOptions): Promise<unknown>
  duplicate (overrides?: object): NodeRedisClient
  connect (): Promise<unknown>
  /** Sends what is queued, and closes. */
  close (): Promise<unknown>
  destroy (): void
  subscribe (channel: string, listener: Listener): Promise<unknown>
  pSubscribe (pattern: string, listener: Listener): Promise<unknown>
  sSubscribe (channel: string, listener: Listener): Promise<unknown>
  unsubscribe (channel: string): Promise<unknown>
  pUnsubscribe (pattern: string): Promise<unknown>
  sUnsubscribe (channel: string): Promise<unknown>
  ping (): Promise<unknown>
}

/** A node of a Cluster. It has no client until it is used. */
interface ClusterNode {
  readonly address: string
  readonly client?: NodeRedisClient
}

/** The members of a client of `createCluster` that are used. */
interface NodeRedisCluster extends EventEmitter {
  readonly isOpen: boolean
  readonly masters: readonly ClusterNode[]
  readonly replicas: readonly ClusterNode[]
  readonly slots: ReadonlyArray<{ master: ClusterNode } | undefined>
  nodeClient (node: ClusterNode): NodeRedisClient | Promise<NodeRedisClient>
  sendCommand (key: string | undefined, isReadonly: boolean, args: Argument[], options?: CommandOptions):
  Promise<unknown>
  duplicate (overrides?: object): NodeRedisCluster
  connect (): Promise<unknown>
  /** Sends what is queued, and closes. */
  close (): Promise<unknown>
  destroy (): void
}

/** A client of node-redis. Its own type is large, and this is what it is recognized by. */
export interface NodeRedis {
  readonly isOpen: boolean
  sendCommand: (...args: never[]) => unknown
  duplicate: (...args: never[]) => unknown
  connect: () => Promise<unknown>
}

const CONNECT_TIMEOUT_MS = 5000
const TEXT: CommandOptions = { typeMapping: {} }
/** 36 is `$`, the first byte of a text. */
const BYTES: CommandOptions = { typeMapping: { 36: Buffer } }

/** Whether a value is a client of node-redis: of `createClient` or `createCluster`. */
export function isNodeRedis (value: object): value is NodeRedis {
  return 'sendCommand' in value && typeof value.sendCommand === 'function' && 'isOpen' in value &&
    'duplicate' in value && !('totalClients' in value) && !('getMasterNode' in value)
}

export function createNodeRedisPort (given: NodeRedis): RedisPort {
  const client = detailed(given)
  return 'masters' in client ? new ClusterPort(client) : new SinglePort(client)
}

/** Returns the client as what it is. */
export function detailed (client: NodeRedis): NodeRedisClient | NodeRedisCluster {
  return client as unknown as NodeRedisClient | NodeRedisCluster
}

function wordsOf (name: string, args: readonly CommandArgument[]): Argument[] {
  const words: Argument[] = [name]
  for (const arg of args) words.push(typeof arg === 'number' ? String(arg) : arg)
  return words
}

/** Gives an error reply of Redis the name by which it is distinguished from a failure of the connection. */
export function named (error: unknown): unknown {
  if (isErrorReply(error)) error.name = 'ReplyError'
  return error
}

function isErrorReply (error: unknown): error is Error {
  return isOfKind(error, name => name === 'ErrorReply')
}

const CONNECTION_ERRORS = new Set([
  'ClientClosedError', 'ClientOfflineError', 'ConnectionTimeoutError', 'DisconnectsClientError',
  'ReconnectStrategyError', 'RootNodesUnavailableError', 'SocketClosedUnexpectedlyError', 'SocketTimeoutError',
  'TimeoutError'
])

/** Whether an error is one of node-redis's classes for a connection that failed. */
export function isConnectionError (error: unknown): boolean {
  return isOfKind(error, name => CONNECTION_ERRORS.has(name))
}

function isOfKind (error: unknown, matches: (name: string) => boolean): error is Error {
  if (!(error instanceof Error)) return false
  for (let kind: unknown = error.constructor; typeof kind === 'function'; kind = Object.getPrototypeOf(kind)) {
    if (matches(kind.name)) return true
  }
  return false
}

class Node implements RedisNode {
  readonly keyPrefix = ''
  readonly #client: NodeRedisClient
  #wasOpen = false
  /** Counted in replies, as the client does not count bytes. */
  received = 0
  socket: object = {}

  constructor (client: NodeRedisClient) {
    this.#client = client
    this.#wasOpen = client.isOpen
    client.on('ready', () => {
      this.#wasOpen = true
      this.socket = {}
    })
  }

  get address (): string {
    const { socket } = this.#client.options ?? {}
    return socket?.path ?? `${socket?.host ?? 'localhost'}:${socket?.port ?? 6379}`
  }

  get status (): ConnectionStatus {
    if (this.#client.isReady) return 'ready'
    if (this.#client.isOpen) return this.#wasOpen ? 'reconnecting' : 'connecting'
    return this.#wasOpen ? 'end' : 'wait'
  }

  async send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    try {
      const reply = await this.#client.sendCommand(wordsOf(name, args), asBytes ? BYTES : TEXT)
      this.received++
      return reply as Reply
    } catch (error) {
      if (isErrorReply(error)) this.received++
      throw named(error)
    }
  }
}

/** The client writes all commands of a turn at once. */
function sendEach (port: Pick<RedisNode, 'send'>, commands: readonly QueuedCommand[]): void {
  for (const { name, args, asBytes, resolve, reject } of commands) port.send(name, args, asBytes).then(resolve, reject)
}

class SinglePort extends Node implements RedisPort {
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

  sendAll (commands: readonly QueuedCommand[]): void {
    sendEach(this, commands)
  }

  subscriber (listener: SubscriberListener): Subscriber | undefined {
    return this.status === 'end' ? undefined : new NodeRedisSubscriber(this.client, listener)
  }

  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    for (const name of CLIENT_EVENTS[event]) this.client.on(name, listener)
  }

  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    for (const name of CLIENT_EVENTS[event]) this.client.off(name, listener)
  }
}

/** `terminated`: the client gives up reconnecting. */
const CLIENT_EVENTS: Record<keyof PortEvents, readonly string[]> = {
  ready: ['ready'],
  close: ['reconnecting', 'end', 'terminated'],
  end: ['end', 'terminated'],
  nodeRemoved: []
}

const CLUSTER_EVENTS: Record<keyof PortEvents, readonly string[]> = {
  ready: ['connect', 'node-ready'],
  close: ['node-disconnect', 'node-reconnecting'],
  end: ['disconnect'],
  nodeRemoved: ['node-disconnect']
}

/** One object for each connection, as its replies are counted. */
const nodes = new WeakMap<NodeRedisClient, Node>()

function nodeOf (client: NodeRedisClient): Node {
  let node = nodes.get(client)
  if (node === undefined) nodes.set(client, node = new Node(client))
  return node
}

/** A node of a Cluster, whose client is made when it is first used. */
class LazyNode implements RedisNode {
  readonly keyPrefix = ''
  readonly #cluster: NodeRedisCluster
  readonly #node: ClusterNode

  constructor (cluster: NodeRedisCluster, node: ClusterNode) {
    this.#cluster = cluster
    this.#node = node
  }

  get address (): string {
    return this.#node.address
  }

  get status (): ConnectionStatus {
    return this.#present?.status ?? 'wait'
  }

  get socket (): object | undefined {
    return this.#present?.socket
  }

  get received (): number {
    return this.#present?.received ?? 0
  }

  async send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    const client = await this.#cluster.nodeClient(this.#node)
    return await nodeOf(client).send<Reply>(name, args, asBytes)
  }

  get #present (): Node | undefined {
    return this.#node.client && nodeOf(this.#node.client)
  }
}

class ClusterPort implements RedisPort {
  readonly client: NodeRedisCluster
  readonly topology: Topology
  readonly isHttp = false
  readonly database = 0
  readonly keyPrefix = ''
  readonly socket = undefined
  readonly received = 0
  readonly #lazyNodes = new WeakMap<ClusterNode, LazyNode>()
  /** The client's listeners by that of this port. */
  readonly #listeners = new Map<object, (node?: { host: string, port: number }) => void>()
  #wasOpen: boolean

  constructor (client: NodeRedisCluster) {
    this.client = client
    this.#wasOpen = client.isOpen
    client.on('connect', () => { this.#wasOpen = true })
    const masterOfSlot = (slot: number): string | undefined => client.slots[slot]?.master.address
    this.topology = {
      masters: () => client.masters.map(node => this.#nodeOf(node)),
      nodes: () => [...client.masters, ...client.replicas].map(node => this.#nodeOf(node)),
      masterOf: key => masterOfSlot(calculateSlot(key)),
      masterOfSlot,
      assigned: () => new Set(client.masters.map(({ address }) => address)),
      refresh: () => this.#rediscover()
    }
  }

  get address (): string {
    return this.client.masters.map(({ address }) => address).join()
  }

  get status (): ConnectionStatus {
    if (this.client.isOpen) return 'ready'
    return this.#wasOpen ? 'end' : 'wait'
  }

  async send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    try {
      const key = keyOf(name, args)
      return await this.client.sendCommand(key, false, wordsOf(name, args), asBytes ? BYTES : TEXT) as Reply
    } catch (error) {
      throw named(error)
    }
  }

  sendAll (commands: readonly QueuedCommand[]): void {
    sendEach(this, commands)
  }

  subscriber (listener: SubscriberListener, address?: string): Subscriber | undefined {
    const all = [...this.client.masters, ...this.client.replicas].filter(({ client }) => client !== undefined)
    const node = address === undefined
      ? all[Math.floor(Math.random() * all.length)]
      : all.find(each => each.address === address)
    return node?.client && new NodeRedisSubscriber(node.client, listener)
  }

  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    const call = listener as (address?: string) => void
    const ofNode = (node?: { host: string, port: number }): void => call(node && `${node.host}:${node.port}`)
    this.#listeners.set(listener, ofNode)
    for (const name of CLUSTER_EVENTS[event]) this.client.on(name, ofNode)
  }

  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    const ofNode = this.#listeners.get(listener)
    this.#listeners.delete(listener)
    if (ofNode !== undefined) for (const name of CLUSTER_EVENTS[event]) this.client.off(name, ofNode)
  }

  /**
   * Has the client ask for the slots. By itself it does so when a command is redirected or a connection is lost, but
   * not when a subscription is; it has no public method for that.
   */
  #rediscover (): void {
    const slots = Object(Reflect.get(this.client, '_slots')) as { rediscover?: (client: unknown) => Promise<unknown> }
    const connected = this.client.masters.find(({ client }) => client?.isReady === true)?.client
    if (connected !== undefined) slots.rediscover?.(connected).catch(() => {})
  }

  #nodeOf (node: ClusterNode): LazyNode {
    let lazy = this.#lazyNodes.get(node)
    if (lazy === undefined) this.#lazyNodes.set(node, lazy = new LazyNode(this.client, node))
    return lazy
  }
}

const KEYLESS = new Set(['ping', 'publish', 'time', 'info', 'dbsize', 'cluster', 'scan', 'role'])

/** Returns the first key of a command; undefined if it has none. */
function keyOf (name: string, args: readonly CommandArgument[]): string | undefined {
  if (KEYLESS.has(name)) return undefined
  return String(name.startsWith('eval') ? args[2] : args[0])
}

/** Closes a client at once. An attempt to connect that is under way would succeed after it, and is closed then. */
export function destroy (client: NodeRedisClient | NodeRedisCluster): void {
  if (!client.isOpen) return
  client.once('connect', () => {
    try {
      client.destroy()
    } catch {
      // Version 5 refuses this for a client that was closed.
    }
  })
  client.destroy()
}

const SUBSCRIBE = { subscribe: 'subscribe', psubscribe: 'pSubscribe', ssubscribe: 'sSubscribe' } as const
const UNSUBSCRIBE = { subscribe: 'unsubscribe', psubscribe: 'pUnsubscribe', ssubscribe: 'sUnsubscribe' } as const

class NodeRedisSubscriber implements Subscriber {
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
      pingInterval: undefined
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
