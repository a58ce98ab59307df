import calculateSlot from 'cluster-key-slot'
import type { FastifyBaseLogger } from 'fastify'
import type { Cluster, Redis } from 'ioredis'
import { isCluster, type RedisClient } from './client.js'
import { systemClock, type Clock, type Timer } from '../plugin/clock.js'
import { withDeadline } from './deadline.js'
import { isOutage, pluginError } from '../plugin/errors.js'
import { Impatience, type ConnectionOf } from './patience.js'
import type { Progress } from './progress.js'

/** The node of a Cluster that holds a key does not answer: it is not asked until it does. */
export const NodeDownError = pluginError('redis', 'NODE_DOWN', 'not asked, as its node of the Cluster does not answer', 503)

const INTERVAL_MS = 250

/**
 * Which masters of a Cluster cannot be asked. One that hangs would cost each request that needs it the deadline, while the
 * others keep the client's circuit closed. So when something fails all of them are asked how they are, by one command each,
 * and those that do not answer, or say that the Cluster is down, are not used until they do.
 */
export class ClusterNodes {
  readonly #cluster: Cluster
  readonly #log: FastifyBaseLogger
  readonly #timeout: number
  readonly #progress: Progress
  readonly #clock: Clock
  readonly #asked = new Map<string, Promise<boolean>>()
  #down: ReadonlySet<string> = new Set()
  #checking: Promise<void> | undefined
  #timer: Timer | undefined
  #stopped = false
  /** When one came back last, by the clock's `monotonic()`; -Infinity: never. */
  returnedAt = -Infinity

  constructor (cluster: Cluster, log: FastifyBaseLogger, timeout: number, progress: Progress, clock: Clock) {
    this.#cluster = cluster
    this.#log = log
    this.#timeout = timeout
    this.#progress = progress
    this.#clock = clock
  }

  get isWhole (): boolean {
    return this.#down.size === 0
  }

  isDown (key: string): boolean {
    if (this.isWhole) return false
    const master = this.#masterOf(key)
    return master === undefined || this.#down.has(master)
  }

  /** The connection that commands on this key are sent over. */
  connectionFor (key: string): Redis | undefined {
    const master = this.#masterOf(key)
    return this.#cluster.nodes('master').find(node => nameOf(node) === master)
  }

  #masterOf (key: string): string | undefined {
    return this.#cluster.slots[calculateSlot(`${this.#cluster.options.keyPrefix ?? ''}${key}`)]?.[0]
  }

  /** One that can be asked, where there is one. */
  any (): Redis | undefined {
    const up = this.#cluster.nodes('master').filter(node => node.status === 'ready' && !this.#down.has(nameOf(node)))
    return up[Math.floor(Math.random() * up.length)]
  }

  /** Asks all of them. @throws where none can be used */
  async check (): Promise<void> {
    this.#checking ??= this.#check().finally(() => { this.#checking = undefined })
    await this.#checking
    if (this.any() === undefined) throw new NodeDownError()
  }

  /** Call it when something failed. */
  suspect (): void {
    if (!this.#stopped) this.check().catch(() => {})
  }

  /** Call it when a slot was found elsewhere: of commands that travelled with others the client itself does not learn that. */
  moved (): void {
    if (!this.#stopped) this.#cluster.refreshSlotsCache(() => {})
  }

  stop (): void {
    this.#stopped = true
    this.#clock.clearTimeout(this.#timer)
  }

  async #check (): Promise<void> {
    const present = new Map(this.#cluster.nodes('all').map(node => [nameOf(node), node]))
    const masters = [...new Set(this.#cluster.slots.map(([master]) => master))].filter(master => master !== undefined)
    const isUp = await Promise.all(masters.map(master => this.#ask(master, present.get(master))))
    const down = new Set(masters.filter((_, i) => isUp[i] !== true))
    if ([...this.#down].some(master => !down.has(master))) this.returnedAt = this.#clock.monotonic()
    this.#tell(down)
    this.#down = down
    this.#clock.clearTimeout(this.#timer)
    if (this.isWhole || this.#stopped) return
    // Where a replica has taken over, the slots are another node's by now.
    this.#cluster.refreshSlotsCache(() => {})
    this.#timer = this.#clock.setTimeout(() => this.suspect(), INTERVAL_MS)
    this.#timer.unref()
  }

  /**
   * At most one question to each is under way: of one that hangs the late answer counts. Who may not ask (ACL) is answered as well. A node that is
   * late, while something comes back from it or this process is short of CPU, is up.
   */
  async #ask (master: string, node: Redis | undefined): Promise<boolean> {
    if (node === undefined || !['ready', 'connect', 'connecting', 'wait'].includes(node.status)) return false
    const asked = this.#asked.get(master) ?? node.cluster('INFO').then(info => String(info).includes('cluster_state:ok'), error => !isOutage(error))
      .finally(() => this.#asked.delete(master))
    this.#asked.set(master, asked)
    const { moves } = this.#progress.look(node)
    const watch = new Impatience(this.#progress, () => node)
    return await withDeadline(asked, this.#timeout, () => new NodeDownError(), this.#clock, watch).catch(() => this.#isLate(node, moves))
  }

  #isLate (node: Redis, moves: number): boolean {
    const connection = this.#progress.look(node)
    return connection.moves !== moves || (this.#progress.isBusy && this.#progress.isAliveOver(connection))
  }

  #tell (down: ReadonlySet<string>): void {
    if ([...down].join() === [...this.#down].join()) return
    if (down.size > 0) this.#log.warn({ plugin: 'redis', nodes: [...down] }, 'redis: nodes of the Cluster do not answer, what they hold is not asked for')
    else this.#log.info({ plugin: 'redis' }, 'redis: all masters of the Cluster answer')
  }
}

function nameOf ({ options: { host, port } }: Redis): string {
  return `${host}:${port}`
}

const nodesOf = new WeakMap<Cluster, ClusterNodes>()

/** Watches the nodes of a client from now on; undefined where it is no Cluster. */
export function watchNodes (client: RedisClient, log: FastifyBaseLogger, timeout: number, progress: Progress, clock: Clock = systemClock): ClusterNodes | undefined {
  if (!isCluster(client)) return undefined
  const nodes = new ClusterNodes(client, log, timeout, progress, clock)
  nodesOf.set(client, nodes)
  return nodes
}

/**
 * The client, for commands on a key.
 *
 * @throws `FST_REDIS_SUITE_REDIS_NODE_DOWN` where the key's node is known not to answer
 */
export function clientFor (client: RedisClient, key: string): RedisClient {
  if (isDown(client, key)) throw new NodeDownError()
  return client
}

/**
 * As {@link clientFor}, for one command, without an async function, as every request passes here: it rejects and never throws,
 * so that commands that are sent beside it have somebody to hear of them.
 */
export function onNode<T> (client: RedisClient, key: string, command: () => Promise<T>): Promise<T> {
  return isDown(client, key) ? Promise.reject(new NodeDownError()) : command()
}

function isDown (client: RedisClient, key: string): boolean {
  if (!isCluster(client)) return false
  keyAsked = key
  return nodesOf.get(client)?.isDown(key) === true
}

/** Of the last command on a Cluster. */
let keyAsked: string | undefined

/** Call it right after an operation was begun. @returns which node the operation was sent to, where its key is known */
export function nodeAsked (client: RedisClient): ConnectionOf {
  const key = keyAsked
  keyAsked = undefined
  return () => isCluster(client) && key !== undefined ? nodesOf.get(client)?.connectionFor(key) : undefined
}

/** Where commands without a key are sent: in a Cluster a master that answers, if one is known. */
export function anyNode (client: RedisClient): RedisClient {
  return isCluster(client) ? nodesOf.get(client)?.any() ?? client : client
}
