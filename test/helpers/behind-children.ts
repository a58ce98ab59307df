import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Test } from 'tap'
import type { RedisServer } from './redis-server.js'

/** A folder to which instances write what they had accepted and what they wrote. */
export function openFolder (t: Test) {
  const folder = t.testdir({ written: '', accepted: '' })
  const linesOf = (file: 'written' | 'accepted') => readFileSync(`${folder}/${file}`, 'utf8').split('\n').slice(0, -1).map(line => line.split(' '))
  return { folder, linesOf }
}

/** Resolves when it works. */
export async function startInstance (t: Test, server: RedisServer, prefix: string, folder: string, ...args: Array<string | number>): Promise<ChildProcess> {
  const child = fork(new URL('../fixtures/behind-instance.ts', import.meta.url), [server.url, prefix, folder, ...args.map(String)], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill('SIGKILL') })
  await once(child, 'message')
  return child
}

export async function backlogOf (server: RedisServer, prefix: string): Promise<number> {
  const counts = await Promise.all([0, 1, 2, 3].map(partition => server.client().xlen(`${prefix}:cache:behind:{orders.${partition}}:stream`)))
  return counts.reduce((sum, count) => sum + count, 0)
}
