import type { Redis } from 'ioredis'
import { isCluster, sendsOf, type RedisClient } from '../../shared/redis/client.js'
import { onNode } from '../../shared/redis/cluster-nodes.js'
import { isWrongType } from '../../shared/plugin/errors.js'
import { mayAnswerSingly, microBatchOf, type MicroBatch } from '../../shared/redis/micro-batch.js'
import { TurnReads } from './turn-reads.js'

interface Waiter {
  /** Where its keys are in the batch. */
  places: readonly number[]
  resolve: (values: Array<Buffer | null>) => void
  reject: (error: unknown) => void
}

/** Reads keys, each once a turn of the event loop. */
export interface BatchedGet {
  getAll (keys: readonly string[]): Promise<Array<Buffer | null>>
  /** Makes what those share who ask the same of it in one turn. */
  sharing<T> (): TurnReads<T>
}

export function createBatchedGet (client: RedisClient): BatchedGet {
  return isCluster(client) ? new SingleReads(client) : new BatchedReads(client)
}

/** The keys of a Cluster lie on several nodes, so each is read by itself. */
class SingleReads implements BatchedGet {
  readonly #client: RedisClient
  readonly #reads: TurnReads<Buffer | null>

  constructor (client: RedisClient) {
    this.#client = client
    this.#reads = this.sharing()
  }

  getAll (keys: readonly string[]): Promise<Array<Buffer | null>> {
    return Promise.all(keys.map(key => this.#reads.get(key, () => onNode(this.#client, key, () => this.#client.getBuffer(key)).catch(noneOfAnotherType))))
  }

  sharing<T> (): TurnReads<T> {
    return new TurnReads(sendsOf(this.#client))
  }
}

// A batch keeps Redis busy for a fraction of a millisecond.
const MOST = 128

/** Reads what is asked for in one turn by one command, at its end. */
class BatchedReads implements BatchedGet {
  readonly #turn: MicroBatch
  readonly #places = new Map<string, number>()
  #keys: string[] = []
  #waiters: Waiter[] = []
  #sent = 0
  #isApart = false

  constructor (client: Redis) {
    this.#turn = microBatchOf(client)
  }

  getAll (keys: readonly string[]): Promise<Array<Buffer | null>> {
    if (keys.length <= MOST) return this.#getBatch(keys)
    const parts = Array.from({ length: Math.ceil(keys.length / MOST) }, (_, i) => keys.slice(i * MOST, (i + 1) * MOST))
    return Promise.all(parts.map(part => this.#getBatch(part))).then(values => values.flat())
  }

  sharing<T> (): TurnReads<T> {
    return new TurnReads(() => this.#sent)
  }

  /** One promise for all keys: each one costs about a microsecond. */
  #getBatch (keys: readonly string[]): Promise<Array<Buffer | null>> {
    return new Promise((resolve, reject) => {
      if (this.#keys.length + keys.length > MOST) this.#send()
      if (this.#keys.length === 0) this.#turn.atEnd(() => this.#send())
      this.#waiters.push({ places: keys.map(key => this.#placeOf(key)), resolve, reject })
    })
  }

  #placeOf (key: string): number {
    const present = this.#places.get(key)
    if (present !== undefined) return present
    const place = this.#keys.push(key) - 1
    this.#places.set(key, place)
    return place
  }

  #send (): void {
    const keys = this.#keys
    const waiters = this.#waiters
    if (keys.length === 0) return
    this.#keys = []
    this.#waiters = []
    this.#places.clear()
    this.#sent++
    if (this.#isApart) return this.#sendEach(keys, waiters)
    this.#turn.ask(on => on.mgetBuffer(keys)).then(
      replies => { for (const waiter of waiters) settle(waiter, Array.isArray(replies) ? replies : []) },
      (error: unknown) => {
        if (mayAnswerSingly(error)) {
          this.#isApart = true
          return this.#sendEach(keys, waiters)
        }
        for (const { reject } of waiters) reject(error)
      })
  }

  #sendEach (keys: readonly string[], waiters: readonly Waiter[]): void {
    const replies = keys.map(key => this.#turn.ask(on => on.getBuffer(key)).catch(noneOfAnotherType))
    for (const waiter of waiters) {
      const own = { ...waiter, places: waiter.places.map((_, i) => i) }
      Promise.all(waiter.places.map(place => replies[place])).then(values => settle(own, values), waiter.reject)
    }
  }
}

function settle ({ places, resolve, reject }: Waiter, replies: readonly unknown[]): void {
  const values: Array<Buffer | null> = []
  for (const place of places) {
    const reply = replies[place]
    if (reply !== null && !Buffer.isBuffer(reply)) return reject(new TypeError('unexpected reply to MGET'))
    values.push(reply)
  }
  resolve(values)
}

/** As `MGET` does: a key of another type reads as none. */
function noneOfAnotherType (error: unknown): null {
  if (isWrongType(error)) return null
  throw error
}
