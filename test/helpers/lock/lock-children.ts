import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { TYPESCRIPT } from '../compiled/exec-argv.js'
import type { RedisServer } from '../servers/redis-server.js'

export interface LockChild {
  child: ChildProcess
  go (): void
  /** Resolves to its next message. */
  next (): Promise<unknown>
}

export interface LockChildOptions {
  /** See `test/fixtures/lock-instance.ts`. */
  mode: 'count' | 'permits' | 'hold'
  servers: readonly RedisServer[]
  /** The server on which it counts. */
  witness: RedisServer
  prefix: string
  resource: string
  sections?: number
  /** Milliseconds. */
  ttl?: number
}

/** Starts an instance in a process of its own, which waits for `go()`. */
export async function startLockChild (t: Test, { mode, servers, witness, prefix, resource, sections = 0, ttl = 10_000 }: LockChildOptions): Promise<LockChild> {
  const args = [mode, servers.map(({ url }) => url).join(), witness.url, prefix, resource, String(sections), String(ttl)]
  const child = fork(new URL('../../fixtures/lock-instance.ts', import.meta.url), args, { execArgv: [...TYPESCRIPT] })
  t.teardown(() => { child.kill('SIGKILL') })
  const messages: unknown[] = []
  child.on('message', message => { messages.push(message) })
  const next = async (): Promise<unknown> => {
    while (messages.length === 0) await once(child, 'message', { signal: AbortSignal.timeout(60_000) })
    return messages.shift()
  }
  await next()
  return { child, go: () => { child.send('go') }, next }
}
