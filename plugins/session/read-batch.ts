import { isCluster, type RedisClient } from '../shared/client.js'
import type { RedisGuard } from '../shared/guard.js'
import { runScript, runScriptIn } from '../shared/script.js'
import { turnOf, type Turn } from '../shared/turn.js'
import { readScript } from './scripts.js'
import type { StoredSession } from './store.js'

interface Waiter {
  key: string
  resolve: (stored: StoredSession | undefined) => void
  reject: (error: unknown) => void
}

// A batch keeps Redis busy for a fraction of a millisecond.
const MOST = 64

/** Reads the sessions that are asked for in one turn of the event loop by one script: the command, the reply, the deadline are done once. */
export class ReadBatch {
  readonly #client: RedisClient
  readonly #run: RedisGuard['run']
  // Undefined on a Cluster: its keys lie on several nodes, so each is read by itself.
  readonly #turn: Turn | undefined
  #waiters: Waiter[] = []

  constructor (client: RedisClient, run: RedisGuard['run']) {
    this.#client = client
    this.#run = run
    this.#turn = isCluster(client) ? undefined : turnOf(client)
  }

  read (key: string): Promise<StoredSession | undefined> {
    return new Promise((resolve, reject) => {
      const waiter = { key, resolve, reject }
      if (this.#turn === undefined) return this.#ask([waiter], keys => runScript(this.#client, readScript, keys, []))
      const count = this.#waiters.push(waiter)
      if (count === 1) this.#turn.atEnd(() => this.#flush())
      else if (count === MOST) this.#flush()
    })
  }

  #flush (): void {
    const waiters = this.#waiters
    const turn = this.#turn
    this.#waiters = []
    if (waiters.length > 0 && turn !== undefined) this.#ask(waiters, keys => runScriptIn(turn, readScript, keys, []))
  }

  #ask (waiters: readonly Waiter[], read: (keys: string[]) => Promise<unknown>): void {
    this.#run(() => read(waiters.map(({ key }) => key))).then(
      replies => { for (const [i, waiter] of waiters.entries()) settle(waiter, Array.isArray(replies) ? replies[i] : undefined) },
      (error: unknown) => { for (const { reject } of waiters) reject(error) })
  }
}

function settle ({ resolve, reject }: Waiter, reply: unknown): void {
  if (typeof reply === 'string') resolve(parse(reply))
  else reject(reply ?? new TypeError('unexpected reply of a session script'))
}

function parse (reply: string): StoredSession | undefined {
  if (reply === '') return undefined
  const head = reply.split(' ', 5)
  const [version = '', user = '', created, seen, sealed] = head
  return {
    text: reply.slice(head.reduce((end, part) => end + part.length + 1, 0)),
    isSealed: sealed === '1',
    version,
    user: user === '' ? undefined : user,
    createdAt: Number(created),
    lastSeenAt: Number(seen)
  }
}
