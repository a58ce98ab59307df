import type { RedisClient } from '../shared/client.js'
import type { Script } from '../shared/script.js'

interface Call {
  keys: readonly string[]
  args: ReadonlyArray<string | number>
  resolve: (reply: unknown) => void
  reject: (error: unknown) => void
}

// A batch keeps Redis busy for a fraction of a millisecond.
const MAX_CALLS = 64

/**
 * Sends the calls of one turn of the event loop as one script: what is the same for all of them, the command, the
 * clock, the reply, is done once. Not for a Cluster, where their keys lie on several nodes.
 *
 * @param script - takes for each call the numbers of its keys and arguments, then the arguments; gives a list of replies
 */
export class ScriptBatcher {
  #client: RedisClient
  #script: Script
  #calls: Call[] = []

  constructor (client: RedisClient, script: Script) {
    this.#client = client
    this.#script = script
  }

  run (keys: readonly string[], args: ReadonlyArray<string | number>): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#calls.push({ keys, args, resolve, reject })
      if (this.#calls.length === 1) setImmediate(() => this.#flush())
      else if (this.#calls.length === MAX_CALLS) this.#flush()
    })
  }

  #flush (): void {
    const calls = this.#calls
    if (calls.length === 0) return
    this.#calls = []
    this.#send(calls).then(replies => {
      for (const [i, { resolve, reject }] of calls.entries()) {
        const reply = replies[i]
        if (reply instanceof Error) reject(reply)
        else resolve(reply)
      }
    }, error => {
      for (const { reject } of calls) reject(error)
    })
  }

  async #send (calls: readonly Call[]): Promise<unknown[]> {
    const keys: string[] = []
    const args: Array<string | number> = []
    for (const call of calls) {
      keys.push(...call.keys)
      args.push(call.keys.length, call.args.length, ...call.args)
    }
    const { lua, sha1 } = this.#script
    // In a pipeline of its own: it would wait another turn for one that is filled automatically.
    const [result] = await this.#client.pipeline().evalsha(sha1, keys.length, ...keys, ...args).exec() ?? []
    const [error, reply] = result ?? [new Error('no reply')]
    if (error === null) return list(reply)
    if (!error.message.startsWith('NOSCRIPT')) throw error
    return list(await this.#client.eval(lua, keys.length, ...keys, ...args))
  }
}

function list (reply: unknown): unknown[] {
  if (!Array.isArray(reply)) throw new TypeError('unexpected reply of a batch')
  return reply
}
