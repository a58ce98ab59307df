import type { Redis } from 'ioredis'
import { isCluster, sendsOf, type RedisClient } from '../shared/client.js'
import { onNode } from '../shared/cluster-nodes.js'
import { isWrongType } from '../shared/errors.js'
import { mayAnswerSingly, turnOf, type Turn } from '../shared/turn.js'
import { TurnReads } from './turn-reads.js'

interface Waiter {
  resolve: (bytes: Buffer | null) => void
  reject: (error: unknown) => void
}

/** Reads keys, each once a turn of the event loop. */
export interface KeyReads {
  get (key: string): Promise<Buffer | null>
  /** Makes what those share who ask the same of it in one turn. */
  sharing<T> (): TurnReads<T>
}

export function createKeyReads (client: RedisClient): KeyReads {
  return isCluster(client) ? new SingleReads(client) : new BatchedReads(client)
}

/** The keys of a Cluster lie on several nodes, so each is read by itself. */
class SingleReads implements KeyReads {
  readonly #client: RedisClient
  readonly #reads: TurnReads<Buffer | null>

  constructor (client: RedisClient) {
    this.#client = client
    this.#reads = this.sharing()
  }

  get (key: string): Promise<Buffer | null> {
    return this.#reads.get(key, () => onNode(this.#client, key, () => this.#client.getBuffer(key)).catch(noneOfAnotherType))
  }

  sharing<T> (): TurnReads<T> {
    return new TurnReads(sendsOf(this.#client))
  }
}

// A batch keeps Redis busy for a fraction of a millisecond.
const MOST = 128

/** Reads what is asked for in one turn by one command, at its end. */
class BatchedReads implements KeyReads {
  readonly #turn: Turn
  readonly #reads: TurnReads<Buffer | null>
  #keys: string[] = []
  #waiters: Waiter[] = []
  #sent = 0
  #isApart = false

  constructor (client: Redis) {
    this.#turn = turnOf(client)
    this.#reads = this.sharing()
  }

  get (key: string): Promise<Buffer | null> {
    return this.#reads.get(key, () => new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject })
      const count = this.#keys.push(key)
      if (count === 1) this.#turn.atEnd(() => this.#send())
      else if (count === MOST) this.#send()
    }))
  }

  sharing<T> (): TurnReads<T> {
    return new TurnReads(() => this.#sent)
  }

  #send (): void {
    const keys = this.#keys
    const waiters = this.#waiters
    if (keys.length === 0) return
    this.#keys = []
    this.#waiters = []
    this.#sent++
    if (this.#isApart) return this.#sendEach(keys, waiters)
    this.#turn.ask(on => on.mgetBuffer(keys)).then(
      replies => { for (const [i, waiter] of waiters.entries()) settle(waiter, Array.isArray(replies) ? replies[i] : undefined) },
      (error: unknown) => {
        if (mayAnswerSingly(error)) {
          this.#isApart = true
          return this.#sendEach(keys, waiters)
        }
        for (const { reject } of waiters) reject(error)
      })
  }

  #sendEach (keys: readonly string[], waiters: readonly Waiter[]): void {
    for (const [i, waiter] of waiters.entries()) this.#turn.ask(on => on.getBuffer(keys[i] ?? '')).catch(noneOfAnotherType).then(reply => settle(waiter, reply), waiter.reject)
  }
}

function settle ({ resolve, reject }: Waiter, reply: unknown): void {
  if (reply === null || Buffer.isBuffer(reply)) resolve(reply)
  else reject(new TypeError('unexpected reply to MGET'))
}

/** As `MGET` does: a key of another type reads as none. */
function noneOfAnotherType (error: unknown): null {
  if (isWrongType(error)) return null
  throw error
}
