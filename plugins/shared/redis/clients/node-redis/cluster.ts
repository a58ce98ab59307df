import calculateSlot from 'cluster-key-slot'
import type {
  CommandArgument, ConnectionStatus, PortEvents, QueuedCommand, RedisNode, RedisPort, Subscriber, SubscriberListener,
  Topology
} from '../../port.js'
import { BYTES, named, TEXT, wordsOf } from './commands.js'
import { Node, sendEach } from './single.js'
import { NodeRedisSubscriber } from './subscriber.js'
import type { ClusterNode, NodeRedisClient, NodeRedisCluster } from './types.js'

const CLUSTER_EVENTS: Record<keyof PortEvents, readonly string[]> = {
  ready: ['connect', 'node-ready'],
  close: ['node-disconnect', 'node-reconnecting'],
  reconnecting: [],
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

/** The port of a client of `createCluster`. */
export class ClusterPort implements RedisPort {
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
    const { masters } = this.client
    return masters.length > 0 ? masters.map(({ address }) => address).join(', ') : this.#rootAddresses
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

  /** The addresses that the client was made with, without user and password. */
  get #rootAddresses (): string {
    const { rootNodes = [] } = this.client._options ?? {}
    const addresses = rootNodes.map(({ url, socket: { host = 'localhost', port = 6379 } = {} }) =>
      url === undefined ? `${host}:${port}` : new URL(url).host)
    return addresses.join(', ')
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
