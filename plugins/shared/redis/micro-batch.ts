import { AsyncResource } from 'node:async_hooks'
import { isTracing } from '../plugin/tracing.js'
import { onNode } from './cluster-nodes.js'
import type { CommandArgument, QueuedCommand, RedisPort } from './port.js'

// Requests to Redis that are made in one turn of the event loop cost less together. A `MicroBatch` belongs to a plugin,
// and merges its requests into one command. A `TurnPipeline` belongs to a client, and writes the commands of all
// plugins to the socket at once.

interface Caller<R> {
  resolve: (result: R) => void
  reject: (error: unknown) => void
}

/**
 * Collects the commands that are sent at the end of one turn of the event loop, by any plugin, and writes them to
 * the socket at once: one pipeline, or one for each node of a Cluster. The client's own pipeline would wait another
 * turn.
 */
export class TurnPipeline {
  readonly client: RedisPort
  readonly #isCluster: boolean
  #listeners: Array<() => void> = []
  #commands: QueuedCommand[] | undefined

  constructor (client: RedisPort) {
    this.client = client
    this.#isCluster = client.topology !== undefined
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
  send (key: string, name: string, args: readonly CommandArgument[], asBytes = false): Promise<unknown> {
    return this.#isCluster
      ? onNode(this.client, key, () => this.#queue(key, name, args, asBytes))
      : this.#queue(key, name, args, asBytes)
  }

  #queue (key: string, name: string, args: readonly CommandArgument[], asBytes: boolean): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const command = { key, name, args, asBytes, resolve, reject }
      if (this.#commands === undefined) this.client.sendAll([command])
      else this.#commands.push(command)
    })
  }

  #endTurn (): void {
    const listeners = this.#listeners
    const commands: QueuedCommand[] = []
    this.#listeners = []
    this.#commands = commands
    try {
      for (const flush of listeners) flush()
    } finally {
      this.#commands = undefined
      if (commands.length > 0) this.client.sendAll(commands)
    }
  }
}

const pipelines = new WeakMap<RedisPort, TurnPipeline>()

/** Returns the pipeline of a client, which all plugins share. */
export function turnPipelineOf (client: RedisPort): TurnPipeline {
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
  client: RedisPort
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
  // Replaced and never cleared: the table of a cleared map refers to its next one, so that one that has survived a
  // garbage collection keeps all later ones, and a second of results, until the next major one.
  #byId = new Map<string, Slot<Q, R>>()
  #shared = new Map<string, Promise<unknown>>()

  constructor (options: MicroBatchOptions<Q, R>) {
    this.#options = options
    this.#pipeline = turnPipelineOf(options.client)
    this.#isApart = options.client.topology !== undefined
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
    if (this.#shared.size > 0) this.#shared = new Map()
    if (slots.length === 0) return
    this.#slots = []
    this.#size = 0
    if (this.#byId.size > 0) this.#byId = new Map()
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
