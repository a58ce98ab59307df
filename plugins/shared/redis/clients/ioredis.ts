import calculateSlot from 'cluster-key-slot'
import type { Cluster, Redis } from 'ioredis'
import type {
  CommandArgument, ConnectionStatus, PortEvents, QueuedCommand, RedisNode, RedisPort, Subscriber, SubscriberListener,
  SubscribeVerb, Topology
} from '../port.js'

/** A client of ioredis. */
export type IoredisClient = Redis | Cluster

/** A client of iovalkey, which has the methods of ioredis. Its own type is another, and this is what it is known by. */
export interface IovalkeyClient {
  readonly status: string
  readonly isCluster: boolean
  sendCommand: (...args: never[]) => unknown
  duplicate: (...args: never[]) => unknown
  evalsha: (...args: never[]) => unknown
}

type Methods = Record<string, (...args: readonly CommandArgument[]) => Promise<unknown>>

/** For a client without `connectTimeout`. */
const CONNECT_TIMEOUT_MS = 10_000

/** The methods that return bytes. */
const FOR_BYTES: Readonly<Record<string, string>> = {
  get: 'getBuffer',
  mget: 'mgetBuffer',
  getrange: 'getrangeBuffer',
  xrange: 'xrangeBuffer',
  eval: 'evalBuffer',
  evalsha: 'evalshaBuffer'
}

/** How a subscriber's connection differs from its client's. */
const SUBSCRIBER_OPTIONS = {
  // ioredis would add it to the channels of sharded pub/sub, which it treats as keys.
  keyPrefix: '',
  lazyConnect: true,
  enableAutoPipelining: false,
  enableOfflineQueue: false,
  autoResubscribe: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  retryStrategy: () => null,
  reconnectOnError: null
} as const

/** Whether a value is a client of ioredis or iovalkey. Either is used as one of ioredis. */
export function isIoredis (value: object): value is IoredisClient {
  return 'evalsha' in value && typeof value.evalsha === 'function' && 'duplicate' in value && 'status' in value &&
    'sendCommand' in value && 'isCluster' in value
}

/** Whether the client returns numbers as strings, so that `reply === 1` never holds. */
export function repliesWithText (client: IoredisClient): boolean {
  const { stringNumbers } = isCluster(client) ? client.options.redisOptions ?? {} : client.options
  return stringNumbers === true
}

/** Whether the client has subscribed to channels, so that Redis refuses other commands of it. */
export function isSubscriber (client: IoredisClient): boolean {
  return Boolean(Object(Reflect.get(client, 'condition')).subscriber)
}

export function isCluster (client: IoredisClient): client is Cluster {
  return client.isCluster
}

/**
 * Returns a client as a Cluster; undefined if it is none. `fastify.redis` has the type that `@fastify/redis` declares,
 * which excludes a Cluster.
 */
export function clusterOf (client: object): Cluster | undefined {
  return isIoredis(client) && isCluster(client) ? client : undefined
}

export function createIoredisPort (client: IoredisClient): RedisPort {
  return isCluster(client) ? new ClusterPort(client) : new SinglePort(client)
}

function call (target: object, name: string, args: readonly CommandArgument[], asBytes: boolean): Promise<unknown> {
  return (target as Methods)[asBytes ? FOR_BYTES[name] ?? name : name]!(...args)
}

class Node implements RedisNode {
  readonly #redis: Redis

  constructor (redis: Redis) {
    this.#redis = redis
  }

  get address (): string {
    return addressOf(this.#redis)
  }

  get status (): ConnectionStatus {
    return this.#redis.status as ConnectionStatus
  }

  get keyPrefix (): string {
    return this.#redis.options.keyPrefix ?? ''
  }

  send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    return call(this.#redis, name, args, asBytes) as Promise<Reply>
  }

  /** A client that has not begun to connect has no stream, against its type. */
  get socket (): object | undefined {
    return this.#redis.stream as object | undefined
  }

  get received (): number {
    return Number(Reflect.get(this.socket ?? {}, 'bytesRead') ?? 0)
  }
}

/** One object for each connection, as its bytes are counted. */
const nodes = new WeakMap<Redis, Node>()

function nodeOf (redis: Redis): Node {
  let node = nodes.get(redis)
  if (node === undefined) nodes.set(redis, node = new Node(redis))
  return node
}

class SinglePort extends Node implements RedisPort {
  readonly client: Redis
  readonly topology = undefined
  readonly isHttp = false

  constructor (client: Redis) {
    super(client)
    this.client = client
  }

  get database (): number {
    return this.client.options.db ?? 0
  }

  sendAll (commands: readonly QueuedCommand[]): void {
    // Commands in the client's own pipeline, such as a write of the same turn, must not be overtaken.
    if (this.client.autoPipelineQueueSize > 0) sendOneByOne(this.client, commands)
    else sendCorked(this.client, commands)
  }

  subscriber (listener: SubscriberListener): Subscriber | undefined {
    return this.status === 'end' ? undefined : new IoredisSubscriber(this.client, listener)
  }

  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    this.client.on(event, listener)
  }

  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    this.client.off(event, listener)
  }
}

class ClusterPort implements RedisPort {
  readonly client: Cluster
  readonly topology: Topology
  readonly isHttp = false
  readonly database = 0
  readonly socket = undefined
  readonly received = 0
  /** The client's listeners by that of this port. */
  readonly #nodeListeners = new Map<object, (node: Redis) => void>()

  constructor (client: Cluster) {
    this.client = client
    const masterOfSlot = (slot: number) => client.slots[slot]?.[0]
    this.topology = {
      masters: () => client.nodes('master').map(nodeOf),
      nodes: () => client.nodes('all').map(nodeOf),
      masterOf: key => masterOfSlot(calculateSlot(this.keyPrefix + key)),
      masterOfSlot,
      assigned: () => new Set(client.slots.flatMap(([master]) => master ?? [])),
      refresh: () => client.refreshSlotsCache(() => {})
    }
  }

  get address (): string {
    return this.client.nodes('all').map(addressOf).join()
  }

  get status (): ConnectionStatus {
    return this.client.status as ConnectionStatus
  }

  get keyPrefix (): string {
    return this.client.options.keyPrefix ?? ''
  }

  send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    return call(this.client, name, args, asBytes) as Promise<Reply>
  }

  sendAll (commands: readonly QueuedCommand[]): void {
    const { client } = this
    // Single commands are redirected one by one, and can be read from replicas, as the client's options ask.
    const { enableAutoPipelining, scaleReads } = client.options
    if (client.autoPipelineQueueSize > 0 || client.slots.length === 0 || enableAutoPipelining !== true ||
      scaleReads !== 'master') {
      return sendOneByOne(client, commands)
    }
    const byNode = new Map<string, QueuedCommand[]>()
    for (const command of commands) {
      const node = client.slots[calculateSlot(this.keyPrefix + command.key)]?.join() ?? ''
      const present = byNode.get(node)
      if (present === undefined) byNode.set(node, [command])
      else present.push(command)
    }
    for (const ofNode of byNode.values()) sendAsPipeline(client, ofNode)
  }

  /** The Cluster client's own subscriber does not report interruptions, and its PING goes to another connection. */
  subscriber (listener: SubscriberListener, address?: string): Subscriber | undefined {
    const all = this.client.nodes('all')
    const node = address === undefined
      ? all[Math.floor(Math.random() * all.length)]
      : all.find(each => addressOf(each) === address)
    return node && new IoredisSubscriber(node, listener)
  }

  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    if (event !== 'nodeRemoved') {
      this.client.on(event, listener)
      return
    }
    const ofNode = (node: Redis): void => (listener as (address: string) => void)(addressOf(node))
    this.#nodeListeners.set(listener, ofNode)
    this.client.on('-node', ofNode)
  }

  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    if (event !== 'nodeRemoved') {
      this.client.off(event, listener)
      return
    }
    const ofNode = this.#nodeListeners.get(listener)
    this.#nodeListeners.delete(listener)
    if (ofNode !== undefined) this.client.off('-node', ofNode)
  }
}

function addressOf ({ options: { host, port } }: Redis): string {
  return `${host}:${port}`
}

function sendOneByOne (client: IoredisClient, commands: readonly QueuedCommand[]): void {
  for (const { name, args, asBytes, resolve, reject } of commands) {
    call(client, name, args, asBytes).then(resolve, reject)
  }
}

/**
 * Writes commands at once, past the client's auto-pipeline. A pipeline of the client costs more: 13 of 64 µs for three
 * commands, and objects that outlive a garbage collection.
 */
function sendCorked (client: Redis, commands: readonly QueuedCommand[]): void {
  // A client that has not begun to connect has no stream, against its type.
  const stream = commands.length > 1 ? client.stream as Redis['stream'] | undefined : undefined
  stream?.cork()
  for (const { name, args, asBytes, resolve, reject } of commands) {
    directly(client, name, asBytes).call(client, args).then(resolve, reject)
  }
  stream?.uncork()
}

type DirectCommand = (this: IoredisClient, args: readonly CommandArgument[]) => Promise<unknown>

const directCommands = new Map<string, { string: DirectCommand, buffer: DirectCommand }>()

/** Returns the method of a command that is never collected in the client's auto-pipeline. */
function directly (client: IoredisClient, name: string, asBytes: boolean): DirectCommand {
  let command = directCommands.get(name)
  if (command === undefined) directCommands.set(name, command = client.createBuiltinCommand(name) as never)
  return asBytes ? command.buffer : command.string
}

function sendAsPipeline (client: IoredisClient, commands: readonly QueuedCommand[]): void {
  const pipeline = client.pipeline()
  for (const { name, args, asBytes } of commands) call(pipeline, name, args, asBytes)
  pipeline.exec().then(
    results => {
      for (const [i, { resolve, reject }] of commands.entries()) {
        const [error, reply] = results?.[i] ?? [new Error('no reply')]
        if (error === null) resolve(reply)
        else reject(error)
      }
    },
    (error: unknown) => { for (const { reject } of commands) reject(error) })
}

const UNSUBSCRIBE = { subscribe: 'unsubscribe', psubscribe: 'punsubscribe', ssubscribe: 'sunsubscribe' } as const

class IoredisSubscriber implements Subscriber {
  readonly connectTimeout: number
  readonly #redis: Redis

  constructor (origin: Redis, listener: SubscriberListener) {
    const redis = origin.duplicate(SUBSCRIBER_OPTIONS)
    this.#redis = redis
    this.connectTimeout = redis.options.connectTimeout || CONNECT_TIMEOUT_MS
    // The client that it was duplicated from logs connection errors.
    redis.on('error', () => {})
    redis.on('connect', () => listener.connected?.())
    redis.on('ready', () => listener.ready())
    // `moved`: a slot has moved to another server.
    for (const event of ['close', 'end', 'moved']) redis.on(event, () => listener.ended())
    const onMessage = (channel: string, text: string): void => listener.message(channel, channel, text)
    redis.on('message', onMessage)
    redis.on('smessage', onMessage)
    redis.on('pmessage', (glob: string, channel: string, text: string) => listener.message(glob, channel, text))
    redis.connect().catch(() => listener.ended())
  }

  get isReady (): boolean {
    return this.#redis.status === 'ready'
  }

  async subscribe (verb: SubscribeVerb, channel: string): Promise<void> {
    await this.#redis[verb](channel)
  }

  async unsubscribe (verb: SubscribeVerb, channel: string): Promise<void> {
    await this.#redis[UNSUBSCRIBE[verb]](channel)
  }

  async ping (): Promise<void> {
    await this.#redis.ping()
  }

  close (): void {
    this.#redis.disconnect()
  }
}
