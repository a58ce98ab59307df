import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Test } from 'tap'
import { TYPESCRIPT } from '../compiled/exec-argv.js'
import type { RedisServer } from '../servers/redis-server.js'

/** The folder in which instances record the writes that they have accepted and written. */
export function openFolder (t: Test) {
  const folder = t.testdir({ written: '', accepted: '' })
  const linesOf = (file: 'written' | 'accepted') => readFileSync(`${folder}/${file}`, 'utf8').split('\n').slice(0, -1).map(line => line.split(' '))
  return { folder, linesOf }
}

/** Resolves when the instance has started. */
export async function startInstance (t: Test, server: RedisServer, prefix: string, folder: string, ...args: Array<string | number>): Promise<ChildProcess> {
  const child = fork(new URL('../../fixtures/behind-instance.ts', import.meta.url), [server.url, prefix, folder, ...args.map(String)], { execArgv: [...TYPESCRIPT] })
  t.teardown(() => { child.kill('SIGKILL') })
  await Promise.race([once(child, 'message'), once(child, 'exit').then(() => { throw new Error('it ended before it was ready') })])
  return child
}

export async function backlogOf (server: RedisServer, prefix: string): Promise<number> {
  const counts = await Promise.all([0, 1, 2, 3].map(partition => server.client().xlen(`${prefix}:cache:behind:{orders.${partition}}:stream`)))
  return counts.reduce((sum, count) => sum + count, 0)
}

/** Counts the accepted writes that the source never received, received twice, or received out of order. */
export function judge (lines: string[][], accepted: string[][]): { lost: number, duplicates: number, outOfOrder: number, keys: number } {
  const written = new Map<string, Array<{ value: number, fence: number }>>()
  for (const [key = '', value, fence] of lines) {
    const writes = written.get(key) ?? []
    writes.push({ value: Number(value), fence: Number(fence) })
    written.set(key, writes)
  }
  let [duplicates, outOfOrder] = [0, 0]
  const all = new Set<string>()
  for (const [key, writes] of written) {
    let newest = -1
    writes.forEach(({ value, fence }, i) => {
      const before = writes[i - 1]
      const isAgain = all.has(`${key} ${value}`)
      all.add(`${key} ${value}`)
      if (isAgain) duplicates++
      // The successor of a writer may repeat its last writes, and continues in order.
      if (!isAgain && value < newest) outOfOrder++
      if (before !== undefined && (fence < before.fence || (fence === before.fence && value <= before.value))) outOfOrder++
      newest = Math.max(newest, value)
    })
  }
  return { lost: accepted.filter(([key, value]) => !all.has(`${key} ${value}`)).length, duplicates, outOfOrder, keys: written.size }
}
