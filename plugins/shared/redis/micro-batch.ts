import { AsyncResource } from 'node:async_hooks'
import calculateSlot from 'cluster-key-slot'
import { isTracing } from '../plugin/tracing.js'
import { isCluster, type RedisClient } from './client.js'
import { onNode } from './cluster-nodes.js'

// Requests to Redis that are made in one turn of the event loop cost less together. A `MicroBatch` belongs to a plugin,
// and merges its requests into one command. A `TurnPipeline` belongs to a client, and writes the commands of all
// plugins to the socket at once.

/** The commands that batches send. A client and a pipeline both have them. */
export interface BatchCommands {
  evalsha (sha1: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  eval (lua: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  evalsha_ro (sha1: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  eval_ro (lua: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  getBuffer (key: string): unknown
  hmget (key: string, ...fields: string[]): unknown
  mgetBuffer (keys: string[]): unknown
}

interface Caller<R> {
  resolve: (result: R) => void
  reject: (error: unknown) => void
}

interface PipelinedCommand extends Caller<unknown> {
  key: string
  send: (on: BatchCommands) => unknown
}

/**
 * Collects the commands that are sent at the end of one turn of the event loop, by any plugin, and writes them to
 * the socket at once: one pipeline, or one for each node of a Cluster. The client's own pipeline would wait another
 * turn.
 */
export class TurnPipeline {
  readonly client: RedisClient
  readonly #isCluster: boolean
  #listeners: Array<() => void> = []
  #commands: PipelinedCommand[] | undefined

  constructor (client: RedisClient) {
    this.client = client
    this.#isCluster = isCluster(client)
  }

  /** Calls `flush` at the end of this turn. The commands that all such functions send are written together. */
  onTurnEnd (flush: () => void): void {
    // Otherwise the trace's spans would belong to the plugin that scheduled the end of the turn.
    const listener = isTracing() ? AsyncResource.bind(flush) : flush
    if (this.#listeners.push(listener) === 1) setImmediate(() => this.#endTurn())
  }

  /**
   * Sends one command: at once, or with others when the turn ends.
   *
   * @param key - a key of the command, which names its node
   * @throws `FST_REDIS_SUITE_REDIS_NODE_DOWN` if the node is known to be down
   */
  send (key: string, send: PipelinedCommand['send']): Promise<unknown> {
    return this.#isCluster ? onNode(this.client, key, () => this.#queue(key, send)) : this.#queue(key, send)
  }

  #queue (key: string, send: PipelinedCommand['send']): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const command = { key, send, resolve, reject }
      if (this.#commands === undefined) this.#write([command])
      else this.#commands.push(command)
    })
  }

  #endTurn (): void {
    const listeners = this.#listeners
    const commands: PipelinedCommand[] = []
    this.#listeners = []
    this.#commands = commands
    try {
      for (const flush of listeners) flush()
    } finally {
      this.#commands = undefined
      if (commands.length > 0) this.#write(commands)
    }
  }

  #write (commands: readonly PipelinedCommand[]): void {
    const { client } = this
    // Commands in the client's own pipeline, such as a write of the same turn, must not be overtaken.
    if (client.autoPipelineQueueSize > 0) return sendOneByOne(client, commands)
    if (!isCluster(client)) return sendAsPipeline(client, commands)
    // Single commands are redirected one by one, and can be read from replicas, as the client's options ask.
    const { enableAutoPipelining, keyPrefix = '', scaleReads } = client.options
    if (client.slots.length === 0 || enableAutoPipelining !== true || scaleReads !== 'master') {
      return sendOneByOne(client, commands)
    }
    const byNode = new Map<string, PipelinedCommand[]>()
    for (const command of commands) {
      const node = client.slots[calculateSlot(keyPrefix + command.key)]?.join() ?? ''
      const present = byNode.get(node)
      if (present === undefined) byNode.set(node, [command])
      else present.push(command)
    }
    for (const ofNode of byNode.values()) sendAsPipeline(client, ofNode)
  }
}

function sendOneByOne (client: RedisClient, commands: readonly PipelinedCommand[]): void {
  for (const { send, resolve, reject } of commands) Promise.resolve(send(client)).then(resolve, reject)
}

function sendAsPipeline (client: RedisClient, commands: readonly PipelinedCommand[]): void {
  const pipeline = client.pipeline()
  for (const { send } of commands) send(pipeline)
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

const pipelines = new WeakMap<RedisClient, TurnPipeline>()

/** Returns the pipeline of a client, which all plugins share. */
export function turnPipelineOf (client: RedisClient): TurnPipeline {
  const pipeline = pipelines.get(client) ?? new TurnPipeline(client)
  pipelines.set(client, pipeline)
  return pipeline
}

/**
 * Whether a server refuses several keys in one command, but may accept each alone: it is part of a Cluster that the
 * client does not know of, lacks the command, or does not allow it to this user.
 */
export function isBatchRefusal (error: unknown): boolean {
  return error instanceof Error && /CROSSSLOT|^NOPERM|^ERR unknown/i.test(error.message)
}

/** A request in a batch. */
export interface Batched<Q> {
  readonly request: Q
  /** The callers that share it. */
  readonly callers: { readonly length: number }
}

export interface MicroBatchOptions<Q, R> {
  client: RedisClient
  /** The largest sum of the sizes of a batch's requests. Redis executes such a batch in a fraction of a millisecond. */
  maxSize: number
  /** Whether two requests with one id are the same. @default they are */
  areEqual?: (a: Q, b: Q) => boolean
  /** Sends a batch as one command, within the plugin's deadline and circuit. */
  sendTogether: (batch: ReadonlyArray<Batched<Q>>, pipeline: TurnPipeline) => Promise<unknown>
  /**
   * Sends each request alone, and returns a promise for each: on a Cluster, whose nodes hold some keys each, and on a
   * server that has refused a batch.
   */
  sendApart: (batch: ReadonlyArray<Batched<Q>>, pipeline: TurnPipeline) => ReadonlyArray<Promise<unknown>>
  /**
   * Returns the result or the error of each caller, in the order of the batch. A caller without a result is rejected.
   */
  parse: (reply: unknown, batch: ReadonlyArray<Batched<Q>>) => ReadonlyArray<R | Error>
}

interface Slot<Q, R> extends Batched<Q> {
  readonly callers: Array<Caller<R>>
}

/** Collects the requests of one turn of the event loop, and sends them as one command when the turn ends. */
export class MicroBatch<Q, R> {
  readonly #options: MicroBatchOptions<Q, R>
  readonly #pipeline: TurnPipeline
  readonly #flushAtTurnEnd = () => {
    this.#isScheduled = false
    this.flush()
  }

  #slots: Array<Slot<Q, R>> = []
  #size = 0
  #isScheduled = false
  #isApart: boolean
  readonly #byId = new Map<string, Slot<Q, R>>()
  readonly #shared = new Map<string, Promise<unknown>>()

  constructor (options: MicroBatchOptions<Q, R>) {
    this.#options = options
    this.#pipeline = turnPipelineOf(options.client)
    this.#isApart = isCluster(options.client)
  }

  /**
   * Adds a request to the batch.
   *
   * @param id - equal requests of a batch with one id are sent once; undefined: this one is sent by itself
   * @param size - its part of `maxSize`
   */
  add (request: Q, id?: string, size = 1): Promise<R> {
    return new Promise((resolve, reject) => {
      if (this.#size + size > this.#options.maxSize) this.flush()
      this.#schedule()
      this.#size += size
      this.#slotOf(request, id).callers.push({ resolve, reject })
    })
  }

  /**
   * Calls `work`, which may add requests, or returns the promise of an earlier call with the same id if the batch has
   * not been sent since. A caller thus never gets a reply to a command that was sent before its call.
   *
   * @param id - names the work, and thereby the type of its result
   */
  share<T> (id: string, work: () => Promise<T>): Promise<T> {
    const present = this.#shared.get(id)
    if (present !== undefined) return present as Promise<T>
    this.#schedule()
    const result = work()
    this.#shared.set(id, result)
    return result
  }

  /** Sends the requests that have been added so far. */
  flush (): void {
    const slots = this.#slots
    this.#shared.clear()
    if (slots.length === 0) return
    this.#slots = []
    this.#size = 0
    this.#byId.clear()
    if (this.#isApart) this.#sendApart(slots)
    else this.#sendTogether(slots)
  }

  #schedule (): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    this.#pipeline.onTurnEnd(this.#flushAtTurnEnd)
  }

  #slotOf (request: Q, id: string | undefined): Slot<Q, R> {
    const present = id === undefined ? undefined : this.#byId.get(id)
    if (present !== undefined && this.#options.areEqual?.(present.request, request) !== false) return present
    const slot: Slot<Q, R> = { request, callers: [] }
    this.#slots.push(slot)
    if (id !== undefined) this.#byId.set(id, slot)
    return slot
  }

  #sendTogether (slots: ReadonlyArray<Slot<Q, R>>): void {
    this.#options.sendTogether(slots, this.#pipeline).then(
      reply => this.#settle(slots, reply),
      (error: unknown) => {
        if (!isBatchRefusal(error)) return rejectAll(slots, error)
        this.#isApart = true
        this.#sendApart(slots)
      })
  }

  #sendApart (slots: ReadonlyArray<Slot<Q, R>>): void {
    for (const [i, reply] of this.#options.sendApart(slots, this.#pipeline).entries()) {
      const own = slots.slice(i, i + 1)
      reply.then(result => this.#settle(own, result), (error: unknown) => rejectAll(own, error))
    }
  }

  #settle (slots: ReadonlyArray<Slot<Q, R>>, reply: unknown): void {
    try {
      const results = this.#options.parse(reply, slots).values()
      for (const { callers } of slots) {
        for (const { resolve, reject } of callers) {
          const { done, value } = results.next()
          if (done === true) reject(new TypeError('unexpected reply'))
          else if (value instanceof Error) reject(value)
          else resolve(value)
        }
      }
    } catch (error) {
      rejectAll(slots, error)
    }
  }
}

function rejectAll<Q, R> (slots: ReadonlyArray<Slot<Q, R>>, error: unknown): void {
  for (const { callers } of slots) for (const { reject } of callers) reject(error)
}
