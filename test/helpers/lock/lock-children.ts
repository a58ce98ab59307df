import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import type { RedisServer } from '../servers/redis-server.js'

export interface LockChild {
  child: ChildProcess
  go (): void
  /** What it says next. */
  next (): Promise<unknown>
}

/** Resolves when it stands ready; it begins when it is told to. */
export async function startLockChild (
  t: Test, mode: 'count' | 'hold', servers: readonly RedisServer[], witness: RedisServer, resource: string, sections = 0, ttl = 10_000
): Promise<LockChild> {
  const args = [mode, servers.map(({ url }) => url).join(), witness.url, resource, String(sections), String(ttl)]
  const child = fork(new URL('../../fixtures/lock-instance.ts', import.meta.url), args, { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill('SIGKILL') })
  const said: unknown[] = []
  child.on('message', message => { said.push(message) })
  const next = async (): Promise<unknown> => {
    while (said.length === 0) await once(child, 'message', { signal: AbortSignal.timeout(60_000) })
    return said.shift()
  }
  await next()
  return { child, go: () => { child.send('go') }, next }
}
