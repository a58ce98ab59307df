import { AsyncResource } from 'node:async_hooks'
import type { Redis } from 'ioredis'
import { isTracing } from '../plugin/tracing.js'

/** What a client and a pipeline have in common. */
interface Commands {
  evalsha (sha1: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  eval (lua: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  evalsha_ro (sha1: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  eval_ro (lua: string, numberOfKeys: number, ...args: Array<string | number>): unknown
  getBuffer (key: string): unknown
  mgetBuffer (keys: string[]): unknown
}

type Command = (on: Commands) => unknown

interface Call {
  command: Command
  resolve: (reply: unknown) => void
  reject: (error: unknown) => void
}

/**
 * What is asked of one server in one turn of the event loop, by whichever plugin: at the turn's end it travels together, as
 * one write to its socket. (Not by the client's own pipeline: that would wait another turn.)
 */
export class MicroBatch {
  readonly #client: Redis
  #endings: Array<() => void> = []
  #calls: Call[] | undefined

  constructor (client: Redis) {
    this.#client = client
  }

  /** @param send - is called at the end of this turn: what it asks then travels together with what others ask */
  atEnd (send: () => void): void {
    // So that a span belongs to one of those who ask, not to another plugin.
    const ending = isTracing() ? AsyncResource.bind(send) : send
    if (this.#endings.push(ending) === 1) setImmediate(() => this.#end())
  }

  /**
   * Asks at once, or together with others where it is called at a turn's end.
   *
   * @param command - calls one command
   */
  ask (command: Command): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const call = { command, resolve, reject }
      if (this.#calls === undefined) this.#send([call])
      else this.#calls.push(call)
    })
  }

  #end (): void {
    const endings = this.#endings
    const calls: Call[] = []
    this.#endings = []
    this.#calls = calls
    try {
      for (const send of endings) send()
    } finally {
      this.#calls = undefined
      if (calls.length > 0) this.#send(calls)
    }
  }

  #send (calls: readonly Call[]): void {
    const client = this.#client
    // Nothing is to overtake what waits to be sent, as a write of the same turn: it goes behind that.
    if (client.autoPipelineQueueSize > 0) {
      for (const { command, resolve, reject } of calls) Promise.resolve(command(client)).then(resolve, reject)
      return
    }
    const pipeline = client.pipeline()
    for (const { command } of calls) command(pipeline)
    pipeline.exec().then(
      results => {
        for (const [i, { resolve, reject }] of calls.entries()) {
          const [error, reply] = results?.[i] ?? [new Error('no reply')]
          if (error === null) resolve(reply)
          else reject(error)
        }
      },
      (error: unknown) => { for (const { reject } of calls) reject(error) })
  }
}

/**
 * Whether a server may answer one by one what it refuses of several keys at once: it is part of a Cluster that the client does not know
 * of, has no such command, or lets its user not use it.
 */
export function mayAnswerSingly (error: unknown): boolean {
  return error instanceof Error && /CROSSSLOT|^NOPERM|^ERR unknown/i.test(error.message)
}

const turns = new WeakMap<Redis, MicroBatch>()

/** The turns of a client, which all who use it share. */
export function microBatchOf (client: Redis): MicroBatch {
  const turn = turns.get(client) ?? new MicroBatch(client)
  turns.set(client, turn)
  return turn
}
