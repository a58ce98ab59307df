import { isCluster, type RedisClient } from '../../shared/redis/client.js'
import { onNode } from '../../shared/redis/cluster-nodes.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { readScriptIn } from '../../shared/redis/script.js'
import { mayAnswerSingly, microBatchOf, type MicroBatch } from '../../shared/redis/micro-batch.js'
import { FIELDS, readScript } from './scripts.js'
import type { StoredSession } from './store.js'

interface Waiter {
  key: string
  resolve: (stored: Promise<StoredSession | undefined> | StoredSession | undefined) => void
  reject: (error: unknown) => void
}

// A batch keeps Redis busy for a fraction of a millisecond.
const MOST = 64

/** Reads the sessions that are asked for in one turn of the event loop by one script: the command, the reply, the deadline are done once. */
export class ReadBatch {
  readonly #client: RedisClient
  readonly #run: RedisGuard['run']
  // Undefined where each is read by itself: the keys of a Cluster lie on several nodes.
  #turn: MicroBatch | undefined
  #waiters: Waiter[] = []

  constructor (client: RedisClient, run: RedisGuard['run']) {
    this.#client = client
    this.#run = run
    this.#turn = isCluster(client) ? undefined : microBatchOf(client)
  }

  read (key: string): Promise<StoredSession | undefined> {
    const turn = this.#turn
    if (turn === undefined) return this.#readOne(key)
    return new Promise((resolve, reject) => {
      const count = this.#waiters.push({ key, resolve, reject })
      if (count === 1) turn.atEnd(() => this.#flush(turn))
      else if (count === MOST) this.#flush(turn)
    })
  }

  async #readOne (key: string): Promise<StoredSession | undefined> {
    return sessionOf(await this.#run(() => onNode(this.#client, key, () => this.#client.hmget(key, ...FIELDS))))
  }

  #flush (turn: MicroBatch): void {
    const waiters = this.#waiters
    this.#waiters = []
    if (waiters.length === 0) return
    this.#run(() => readScriptIn(turn, readScript, waiters.map(({ key }) => key))).then(
      replies => { for (const [i, waiter] of waiters.entries()) settle(waiter, Array.isArray(replies) ? replies[i] : undefined) },
      (error: unknown) => {
        const isSingle = mayAnswerSingly(error)
        if (isSingle) this.#turn = undefined
        for (const { key, resolve, reject } of waiters) {
          if (isSingle) resolve(this.#readOne(key))
          else reject(error)
        }
      })
  }
}

function settle ({ resolve, reject }: Waiter, reply: unknown): void {
  if (typeof reply === 'string') resolve(sessionOf(split(reply)))
  else reject(reply ?? new TypeError('unexpected reply of a session script'))
}

/** The last field is all that is left. */
function split (reply: string): string[] {
  const head = reply.split(' ', FIELDS.length - 1)
  return [...head, reply.slice(head.reduce((end, part) => end + part.length + 1, 0))]
}

/** @param fields - in the order of {@link FIELDS} */
function sessionOf ([version, user, created, seen, sealed, text]: ReadonlyArray<string | null>): StoredSession | undefined {
  if (!text || !created) return undefined
  return { text, isSealed: sealed === '1', version: version ?? '', user: user || undefined, createdAt: Number(created), lastSeenAt: Number(seen) }
}
