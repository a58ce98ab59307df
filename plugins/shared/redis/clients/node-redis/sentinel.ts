import { EventEmitter } from 'node:events'
import { systemClock, type Timer } from '../../../plugin/clock.js'
import { InWords, invalidOptionError, isReadonly, toError } from '../../../plugin/errors.js'
import type { Milliseconds } from '../../../plugin/units.js'
import type {
  CommandArgument, ConnectionStatus, PortEvents, QueuedCommand, RedisPort, Subscriber, SubscriberListener
} from '../../port.js'
import { Node } from './single.js'
import { destroy, NodeRedisSubscriber } from './subscriber.js'
import type { NodeRedisClient, NodeRedisSentinel } from './types.js'

/** How long commands wait for a master. */
const MAX_WAIT_MS: Milliseconds = 1000
const RETRY_MS: Milliseconds = 100

/** The Sentinels have no master that can be reached. */
class NoMasterError extends Error {
  constructor (options?: ErrorOptions) {
    super('the Sentinels have no master that can be reached', options)
  }
}

/**
 * The port of a client of `createSentinel`. That client lends the connection of its master to one caller after another,
 * and those that ask at the same time can wait for each other. So the commands of a turn are one caller, and at most
 * one of them asks.
 */
export class SentinelPort implements RedisPort {
  readonly client: NodeRedisSentinel
  readonly topology = undefined
  readonly isHttp = false
  readonly keyPrefix = ''
  readonly #events = new EventEmitter()
  readonly #subscribers = new Set<Subscriber>()
  #waiting: QueuedCommand[] = []
  /** By real time, as the client's own timers. */
  #expiry: Timer | undefined
  #isAsking = false
  #reviveTimer: Timer | undefined
  /** Set between the loss of the connection and its report. */
  #lossTimer: Timer | undefined
  #revived: NodeRedisClient | undefined
  #wasOpen: boolean
  #isUp = false
  /** The connection that was lent last. */
  #master: NodeRedisClient | undefined
  readonly #nodes = new WeakMap<NodeRedisClient, Node>()
  /** The replies over all connections, as a client without `reserveClient` lends one after another. */
  received = 0
  socket: object = {}
  #isDatabaseRead = false
  /** Why no command may be sent. */
  #unfit: Error | undefined

  constructor (client: NodeRedisSentinel) {
    this.client = client
    this.#wasOpen = client.isOpen
    // Each subscription and each plugin has listeners of its own.
    this.#events.setMaxListeners(0)
    if (this.#wasOpen) this.#ask()
  }

  get address (): string {
    const { host, port } = this.client.getMasterNode() ?? {}
    return host === undefined ? 'the master of the Sentinels' : `${host}:${port}`
  }

  get status (): ConnectionStatus {
    if (!this.client.isOpen) return this.#wasOpen ? 'end' : 'wait'
    if (this.client.getMasterNode() !== undefined) return 'ready'
    return this.#master === undefined ? 'connecting' : 'reconnecting'
  }

  /** It is known when the client has lent its connection for the first time. */
  get database (): number {
    this.#isDatabaseRead ||= this.#master === undefined
    return databaseOf(this.#master)
  }

  async send<Reply> (name: string, args: readonly CommandArgument[], asBytes = false): Promise<Reply> {
    return await new Promise<Reply>((resolve, reject) => {
      this.sendAll([{ key: '', name, args, asBytes, resolve: resolve as (reply: unknown) => void, reject }])
    })
  }

  sendAll (commands: readonly QueuedCommand[]): void {
    this.#waiting.push(...commands)
    if (this.#unfit !== undefined) return this.#refuse(this.#unfit)
    this.#expireLater()
    this.#ask()
  }

  subscriber (listener: SubscriberListener): Subscriber | undefined {
    if (this.#master === undefined || !this.#isUp) return undefined
    const subscribers = this.#subscribers
    const subscriber = new class extends NodeRedisSubscriber {
      override close (): void {
        subscribers.delete(this)
        super.close()
      }
    }(this.#master, listener)
    subscribers.add(subscriber)
    return subscriber
  }

  on<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    this.#events.on(event, listener)
  }

  off<Event extends keyof PortEvents> (event: Event, listener: (...args: PortEvents[Event]) => void): void {
    this.#events.off(event, listener)
  }

  #ask (): void {
    if (this.#isAsking) return
    this.#isAsking = true
    this.#reviveLater()
    // `sendCommand` calls it as well. No public method has the connection, whose replies are counted here.
    this.client._execute(false, async master => {
      this.#isAsking = false
      const node = this.#follow(master)
      if (this.#unfit !== undefined) return this.#refuse(this.#unfit)
      await this.#sendWaiting(node)
    }).catch((error: unknown) => {
      this.#isAsking = false
      this.#settleRevival(undefined)
      this.#refuse(isReadonly(error) ? toError(error) : new NoMasterError({ cause: error }))
      if (this.client.isOpen) systemClock.setTimeout(() => { if (!this.#isUp) this.#ask() }, RETRY_MS).unref()
      // A client that has not connected yet is not open between two attempts.
      else if (this.#wasOpen) this.#events.emit('end')
    })
  }

  /**
   * Connects the lent connection again if it has given up while another one to the same server is ready. The client
   * replaces its connections only when none is ready, and would ask the Sentinels without a pause, for ever.
   */
  #reviveLater (): void {
    if (this.#reviveTimer !== undefined) return
    this.#reviveTimer = systemClock.setTimeout(() => {
      this.#reviveTimer = undefined
      if (!this.#isAsking || !this.client.isOpen) return
      const master = this.#master
      const ready = this.client.getMasterNode()
      if (master?.isOpen === false && ready !== undefined && addressOf(ready) === addressOf(master.options?.socket)) {
        this.#revived = master
        master.connect().catch(() => {})
      }
      this.#reviveLater()
    }, RETRY_MS).unref()
  }

  /** The client itself does not close a connection that it has replaced before it was revived. */
  #settleRevival (lent: NodeRedisClient | undefined): void {
    if (this.#revived !== undefined && this.#revived !== lent) destroy(this.#revived)
    this.#revived = undefined
  }

  #follow (master: NodeRedisClient): Node {
    this.#wasOpen = true
    this.#settleRevival(master)
    const node = this.#nodes.get(master) ?? this.#add(master)
    if (master !== this.#master) this.#replaceMaster(master)
    if (!this.#isUp) {
      if (this.#lossTimer !== undefined) this.#reportLoss()
      this.#isUp = true
      this.#events.emit('ready')
    }
    return node
  }

  #add (master: NodeRedisClient): Node {
    const node = new Node(master)
    this.#nodes.set(master, node)
    const lost = (): void => { if (master === this.#master) this.#lose() }
    for (const event of ['reconnecting', 'end', 'terminated']) master.on(event, lost)
    return node
  }

  #replaceMaster (master: NodeRedisClient): void {
    if (this.#isDatabaseRead && databaseOf(master) !== 0) this.#unfit = unexpectedDatabase(databaseOf(master))
    const before = this.#master
    this.#master = master
    // The client closes all connections before it opens those to another server.
    if (before?.isOpen === true && addressOf(before.options?.socket) === addressOf(master.options?.socket)) return
    this.socket = {}
    // The previous server receives no message that is published from now on.
    for (const subscriber of this.#subscribers) subscriber.close()
    this.#subscribers.clear()
  }

  #lose (): void {
    if (!this.#isUp) return
    this.#isUp = false
    this.socket = {}
    this.#events.emit('close')
    // A client that is being closed loses its connections while it is open.
    this.#lossTimer = systemClock.setTimeout(() => this.#reportLoss(), RETRY_MS).unref()
    // Has the client look for the master until there is one.
    this.#ask()
  }

  #reportLoss (): void {
    systemClock.clearTimeout(this.#lossTimer)
    this.#lossTimer = undefined
    if (this.client.isOpen) this.#events.emit('reconnecting')
  }

  /**
   * Sends all that wait. What is refused because the server is a replica by now waits on: the client calls this again
   * when it has asked the Sentinels.
   */
  async #sendWaiting (node: Node): Promise<void> {
    const commands = this.#takeWaiting()
    let readonly: unknown
    await Promise.all(commands.map(async command => {
      const { name, args, asBytes, resolve, reject } = command
      try {
        const reply = await node.send(name, args, asBytes)
        this.received++
        resolve(reply)
      } catch (error) {
        if (error instanceof Error && error.name === 'ReplyError') this.received++
        if (!isReadonly(error)) return reject(error)
        readonly = error
        this.#waiting.push(command)
        this.#expireLater()
      }
    }))
    if (readonly !== undefined) throw readonly
  }

  #refuse (reason: Error): void {
    for (const { reject } of this.#takeWaiting()) reject(reason)
  }

  #expireLater (): void {
    this.#expiry ??= systemClock.setTimeout(() => this.#refuse(new NoMasterError()), MAX_WAIT_MS).unref()
  }

  #takeWaiting (): QueuedCommand[] {
    const commands = this.#waiting
    this.#waiting = []
    systemClock.clearTimeout(this.#expiry)
    this.#expiry = undefined
    return commands
  }
}

/** The names of channels contain the database, and those of a plugin are made before it is known. */
function unexpectedDatabase (database: number): Error {
  return invalidOptionError('redis', 'client', new InWords(`one of createSentinel with database ${database}`),
    'given to the plugin redis as client, which connects it before the other plugins are registered')
}

function addressOf ({ host, port }: { host?: string, port?: number } = {}): string {
  return `${host}:${port}`
}

function databaseOf (master: NodeRedisClient | undefined): number {
  return master?.options?.database ?? 0
}
