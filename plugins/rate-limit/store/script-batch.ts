import { isCluster, type RedisClient } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { runScript, runScriptIn, type Script } from '../../shared/redis/script.js'
import { mayAnswerSingly, microBatchOf, type MicroBatch } from '../../shared/redis/micro-batch.js'

interface Waiter<T> {
  resolve: (result: T) => void
  reject: (error: unknown) => void
}

type Arguments = ReadonlyArray<string | number>

/** A decision that is asked for once or several times over. */
interface Call<T> {
  keys: readonly string[]
  args: Arguments
  waiters: Array<Waiter<T>>
}

export interface BatchOptions<T> {
  client: RedisClient
  guard: Pick<RedisGuard, 'run'>
  clock: Clock
  /**
   * Takes for each call the number of its keys, how often it is asked for, and the number of its arguments, then the
   * arguments; the number 0 where they are those of the call before. Gives, call by call, pairs: how many times over it is answered, and the answer.
   */
  script: Script
  /** @param later - how many of those that are answered at once come after this one */
  parse: (reply: unknown, later: number) => T
}

// A batch keeps Redis busy for a fraction of a millisecond.
const MAX_WAITERS = 64

/**
 * Sends what is asked for in one turn of the event loop as one script: what is the same for all of it, the command, the
 * clock, the reply, the deadline, is done once. What is asked for several times over, as of a busy client, is one call.
 */
export class ScriptBatch<T> {
  readonly #options: BatchOptions<T>
  // Undefined on a Cluster: its keys lie on several nodes, so each call travels by itself.
  #turn: MicroBatch | undefined
  #calls: Array<Call<T>> = []
  #byId = new Map<string, Call<T>>()
  #waiters = 0

  constructor (options: BatchOptions<T>) {
    this.#options = options
    this.#turn = isCluster(options.client) ? undefined : microBatchOf(options.client)
  }

  /**
   * @param id - of the call: where the arguments too are the same list, it is taken together with others of the turn;
   * undefined where each has to be decided by itself
   */
  run (id: string | undefined, keys: () => readonly string[], args: Arguments): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#callOf(id, keys, args).waiters.push({ resolve, reject })
      if (++this.#waiters === 1) this.#atTurnsEnd(() => this.flush())
      else if (this.#waiters === MAX_WAITERS) this.flush()
    })
  }

  #atTurnsEnd (flush: () => void): void {
    if (this.#turn === undefined) setImmediate(flush)
    else this.#turn.atEnd(flush)
  }

  #callOf (id: string | undefined, keys: () => readonly string[], args: Arguments): Call<T> {
    const present = id === undefined ? undefined : this.#byId.get(id)
    if (present !== undefined && present.args === args) return present
    const call: Call<T> = { keys: keys(), args, waiters: [] }
    this.#calls.push(call)
    if (id !== undefined) this.#byId.set(id, call)
    return call
  }

  /** Sends what has been asked for so far. */
  flush (): void {
    const calls = this.#calls
    this.#calls = []
    this.#byId.clear()
    this.#waiters = 0
    if (this.#turn !== undefined) this.#send(calls)
    else for (const call of calls) this.#send([call])
  }

  #send (calls: ReadonlyArray<Call<T>>): void {
    if (calls.length === 0) return
    this.#options.guard.run(() => this.#ask(calls)).then(
      replies => this.#answer(calls, replies),
      (error: unknown) => {
        if (this.#turn !== undefined && calls.length > 1 && mayAnswerSingly(error)) {
          this.#turn = undefined
          for (const call of calls) this.#send([call])
          return
        }
        for (const { waiters } of calls) for (const { reject } of waiters) reject(error)
      })
  }

  async #ask (calls: ReadonlyArray<Call<T>>): Promise<unknown> {
    const { client, script, clock } = this.#options
    const keys: string[] = []
    const args: Array<string | number> = []
    let sent: Arguments | undefined
    for (const { keys: own, waiters, args: given } of calls) {
      keys.push(...own)
      args.push(own.length, waiters.length)
      // Of one policy all have the same list.
      if (given === sent) args.push(0)
      else args.push(given.length, ...given)
      sent = given
    }
    return await (this.#turn === undefined ? runScript(client, script, keys, args, clock) : runScriptIn(this.#turn, script, keys, args, clock))
  }

  #answer (calls: ReadonlyArray<Call<T>>, replies: unknown): void {
    const list: unknown[] = Array.isArray(replies) ? replies : []
    let next = 0
    for (const { waiters } of calls) {
      for (let answered = 0; answered < waiters.length;) {
        const count = Number(list[next++])
        const reply = list[next++]
        // Whatever came, nobody waits for ever.
        const end = count >= 1 ? Math.min(answered + count, waiters.length) : waiters.length
        while (answered < end) settle(waiters[answered++], () => this.#parse(reply, end - answered))
      }
    }
  }

  #parse (reply: unknown, later: number): T {
    if (reply instanceof Error) throw reply
    return this.#options.parse(reply, later)
  }
}

function settle<T> (waiter: Waiter<T> | undefined, result: () => T): void {
  try {
    waiter?.resolve(result())
  } catch (error) {
    waiter?.reject(error)
  }
}
