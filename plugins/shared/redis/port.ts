import type { RedisClient } from './client.js'
import type { Milliseconds } from '../plugin/units.js'

/**
 * The port to Redis: all that the plugins need of a client. A file of `clients/` implements it for one client library,
 * and nothing else in `plugins/shared` or in a plugin's store names one.
 */

/** An argument of a command. */
export type CommandArgument = string | number | Buffer

/**
 * - `wait`: the client has not begun to connect
 * - `ready`: commands are sent
 * - `end`: the client was closed, and does not reconnect
 */
export type ConnectionStatus = 'wait' | 'connecting' | 'connect' | 'ready' | 'close' | 'reconnecting' | 'end'

/** One of several commands that are written together. */
export interface QueuedCommand {
  /** A key of the command, which names its node. */
  readonly key: string
  readonly name: string
  readonly args: readonly CommandArgument[]
  /** Whether texts of the reply are returned as bytes. */
  readonly asBytes: boolean
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: unknown) => void
}

/** A connection to one server. */
export interface RedisNode {
  /** `host:port`. */
  readonly address: string
  readonly status: ConnectionStatus
  /** The text that the client itself adds before each key of a command that is sent here. */
  readonly keyPrefix: string
  /**
   * Sends a command.
   *
   * @param name - in lower case
   * @param asBytes - whether texts of the reply are returned as bytes
   * @throws an error of the name `ReplyError` if Redis replies with an error
   */
  send<Reply = unknown> (name: string, args: readonly CommandArgument[], asBytes?: boolean): Promise<Reply>
  /** The socket of the connection; undefined where it is unknown, or there is none. */
  readonly socket: object | undefined
  /** How many bytes, or else replies, have arrived from the server. A new socket may begin at 0. */
  readonly received: number
}

/** The nodes of a Cluster. An address is `host:port`. */
export interface Topology {
  masters (): RedisNode[]
  /** Masters and replicas. */
  nodes (): RedisNode[]
  /** Returns the master of a key; undefined while it is unknown. */
  masterOf (key: string): string | undefined
  /** Returns the master of a slot; undefined while it is unknown. */
  masterOfSlot (slot: number): string | undefined
  /** Returns all masters that slots are assigned to. */
  assigned (): ReadonlySet<string>
  /** Asks for the assignment of slots once more, as they may have moved. */
  refresh (): void
}

export type SubscribeVerb = 'subscribe' | 'psubscribe' | 'ssubscribe'

export interface SubscriberListener {
  /** The connection is made, and the handshake begins. */
  connected?: () => void
  ready (): void
  /** @param subscribed - the channel, or the pattern, that was subscribed to */
  message (subscribed: string, channel: string, text: string): void
  /** The connection is lost, or could not be made. It is not made again. May be called several times. */
  ended (): void
}

/** A connection of its own for subscriptions, which is never reconnected. */
export interface Subscriber {
  readonly isReady: boolean
  /** How long the connection and the handshake may take. */
  readonly connectTimeout: Milliseconds
  subscribe (verb: SubscribeVerb, channel: string): Promise<void>
  unsubscribe (verb: SubscribeVerb, channel: string): Promise<void>
  /** Resolves when all messages have been received that were published before the call. */
  ping (): Promise<void>
  close (): void
}

/**
 * The events of a client.
 *
 * - `close`: the connection is lost, or the client was closed
 * - `reconnecting`: the client will try to connect again; a Cluster's of node-redis has no such event
 * - `nodeRemoved`: has the address of a node that left a Cluster
 */
export interface PortEvents {
  ready: []
  close: []
  reconnecting: []
  end: []
  nodeRemoved: [address: string]
}

/** A client of Redis. */
export interface RedisPort extends RedisNode {
  /** The client that the app has given, or that the plugin `redis` has made. */
  readonly client: RedisClient
  /**
   * Whether commands are sent over HTTP: a reply takes longer, commands of different turns of the event loop may arrive
   * in another order, and nothing can be subscribed to.
   */
  readonly isHttp: boolean
  /** Undefined for a client of a single node. */
  readonly topology: Topology | undefined
  /** The number of the database. */
  readonly database: number
  /** Called when the server has refused a write because it is a replica. A new connection may lead to the master. */
  onReadonly?: () => void
  /** Sends commands in one write, or in one for each node. Each is settled on its own. */
  sendAll (commands: readonly QueuedCommand[]): void
  /**
   * Opens a connection for subscriptions.
   *
   * @param address - the server: by default that of the client, or any node of a Cluster
   * @returns undefined if there is no such server now
   */
  subscriber (listener: SubscriberListener, address?: string): Subscriber | undefined
  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void
  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void
}
