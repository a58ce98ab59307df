import type { FastifyBaseLogger } from 'fastify'
import { systemClock, type Clock, type Timer } from '../plugin/clock.js'
import { withDeadline } from './deadline.js'
import { isOutage, pluginError } from '../plugin/errors.js'
import type { Milliseconds } from '../plugin/units.js'
import { Impatience, type ConnectionOf } from './patience.js'
import type { RedisNode, RedisPort, Topology } from './port.js'
import type { Progress } from './progress.js'

/** A key's node of a Cluster does not reply. No command is sent to it until it does. */
export const NodeDownError = pluginError(
  'redis', 'NODE_DOWN', 'not sent, as its node of the Cluster does not reply', 503
)

const CHECK_INTERVAL_MS = 250

/**
 * Knows which masters of a Cluster are down. The client's circuit stays closed while others reply, so that one that
 * hangs would cost each of its requests the deadline. After a failure each master gets one command. Those that do not
 * reply, or report that the Cluster is down, are not used until they do.
 */
export class ClusterNodes {
  readonly #topology: Topology
  readonly #log: FastifyBaseLogger
  readonly #timeout: Milliseconds
  readonly #progress: Progress
  readonly #clock: Clock
  /** The checks in flight, by master. */
  readonly #checks = new Map<string, Promise<boolean>>()
  #down: ReadonlySet<string> = new Set()
  #checking: Promise<void> | undefined
  #timer: Timer | undefined
  #isStopped = false
  /** The key of the command that an operation sends, see {@link observe}. */
  #observedKey: string | undefined
  /** When a master came back last, by the clock's `monotonic()`; -Infinity: never. */
  returnedAt = -Infinity

  constructor (topology: Topology, log: FastifyBaseLogger, timeout: Milliseconds, progress: Progress, clock: Clock) {
    this.#topology = topology
    this.#log = log
    this.#timeout = timeout
    this.#progress = progress
    this.#clock = clock
  }

  get isWhole (): boolean {
    return this.#down.size === 0
  }

  /** Whether the node of a key is down. */
  isDown (key: string): boolean {
    this.#observedKey = key
    if (this.isWhole) return false
    const master = this.#topology.masterOf(key)
    return master === undefined || this.#down.has(master)
  }

  /**
   * Calls an operation, and returns the connection of its command: that of the last key that {@link isDown}
   * is called with.
   */
  observe<T> (operation: () => Promise<T>): { reply: Promise<T>, connectionOf: ConnectionOf } {
    this.#observedKey = undefined
    const reply = operation()
    const key = this.#observedKey as string | undefined
    return { reply, connectionOf: () => key === undefined ? undefined : this.#connectionFor(key) }
  }

  #connectionFor (key: string): RedisNode | undefined {
    const master = this.#topology.masterOf(key)
    return this.#topology.masters().find(({ address }) => address === master)
  }

  /** Returns a master that is up; undefined if there is none. */
  any (): RedisNode | undefined {
    const up = this.#topology.masters().filter(({ status, address }) => status === 'ready' && !this.#down.has(address))
    return up[Math.floor(Math.random() * up.length)]
  }

  /** Checks all masters. @throws `FST_REDIS_SUITE_REDIS_NODE_DOWN` if none is up */
  async check (): Promise<void> {
    this.#checking ??= this.#check().finally(() => { this.#checking = undefined })
    await this.#checking
    if (this.any() === undefined) throw new NodeDownError()
  }

  /** Call it when an operation failed. */
  suspect (): void {
    if (!this.#isStopped) this.check().catch(() => {})
  }

  /** Call it when a slot has moved: the client itself does not learn that of commands in a pipeline. */
  moved (): void {
    if (!this.#isStopped) this.#topology.refresh()
  }

  stop (): void {
    this.#isStopped = true
    this.#clock.clearTimeout(this.#timer)
  }

  async #check (): Promise<void> {
    const present = new Map(this.#topology.nodes().map(node => [node.address, node]))
    const masters = [...this.#topology.assigned()]
    const isUp = await Promise.all(masters.map(master => this.#isUp(master, present.get(master))))
    const down = new Set(masters.filter((_, i) => isUp[i] !== true))
    if ([...this.#down].some(master => !down.has(master))) this.returnedAt = this.#clock.monotonic()
    this.#logChange(down)
    this.#down = down
    this.#clock.clearTimeout(this.#timer)
    if (this.isWhole || this.#isStopped) return
    // After a failover the slots are another node's.
    this.#topology.refresh()
    this.#timer = this.#clock.setTimeout(() => this.suspect(), CHECK_INTERVAL_MS)
    this.#timer.unref()
  }

  /**
   * Checks a master, by at most one command in flight: the late reply of one that hangs counts. A refusal (ACL) is a
   * reply. A node is also up if it is late while something arrives from it, or while this process is short of CPU.
   */
  async #isUp (master: string, node: RedisNode | undefined): Promise<boolean> {
    if (node === undefined || !['ready', 'connect', 'connecting', 'wait'].includes(node.status)) return false
    const check = this.#checks.get(master) ?? node.send('cluster', ['INFO'])
      .then(info => String(info).includes('cluster_state:ok'), error => !isOutage(error))
      .finally(() => this.#checks.delete(master))
    this.#checks.set(master, check)
    const { moves } = this.#progress.look(node)
    const watch = new Impatience(this.#progress, () => node)
    const inTime = withDeadline(check, this.#timeout, () => new NodeDownError(), this.#clock, watch)
    return await inTime.catch(() => this.#isLate(node, moves))
  }

  #isLate (node: RedisNode, moves: number): boolean {
    const connection = this.#progress.look(node)
    return connection.moves !== moves || (this.#progress.isBusy && this.#progress.isAliveOver(connection))
  }

  #logChange (down: ReadonlySet<string>): void {
    if ([...down].join() === [...this.#down].join()) return
    const nodes = [...down]
    if (nodes.length > 0) {
      this.#log.warn(
        { plugin: 'redis', nodes }, 'redis: nodes of the Cluster do not reply and are not used'
      )
    } else this.#log.info({ plugin: 'redis' }, 'redis: all masters of the Cluster reply')
  }
}

const nodesOf = new WeakMap<RedisPort, ClusterNodes>()

/** Watches the nodes of a client from now on. Returns undefined for a client of a single node. */
export function watchNodes (
  client: RedisPort, log: FastifyBaseLogger, timeout: Milliseconds, progress: Progress, clock: Clock = systemClock
): ClusterNodes | undefined {
  if (client.topology === undefined) return undefined
  const nodes = new ClusterNodes(client.topology, log, timeout, progress, clock)
  nodesOf.set(client, nodes)
  return nodes
}

/**
 * Returns the client, for commands on a key.
 *
 * @throws `FST_REDIS_SUITE_REDIS_NODE_DOWN` if the key's node is known to be down
 */
export function clientFor (client: RedisPort, key: string): RedisPort {
  if (isDown(client, key)) throw new NodeDownError()
  return client
}

/**
 * Sends one command on a key, as {@link clientFor} does. It rejects and never throws, so that the caller awaits
 * commands beside it as well.
 */
export function onNode<T> (client: RedisPort, key: string, command: () => Promise<T>): Promise<T> {
  return isDown(client, key) ? Promise.reject(new NodeDownError()) : command()
}

function isDown (client: RedisPort, key: string): boolean {
  return client.topology !== undefined && nodesOf.get(client)?.isDown(key) === true
}

/** Returns the connection for commands without a key: in a Cluster that of a master that is up. */
export function anyNode (client: RedisPort): RedisNode {
  return client.topology === undefined ? client : nodesOf.get(client)?.any() ?? client
}
