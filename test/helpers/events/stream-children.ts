import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Test } from 'tap'
import { TYPESCRIPT } from '../compiled/exec-argv.js'

/** Starts a process with a consumer of the group `mail`; resolves when it consumes. */
export async function startInstance (t: Test, server: { readonly url: string }, ...args: Array<string | number>): Promise<ChildProcess> {
  const child = fork(new URL('../../fixtures/stream-instance.ts', import.meta.url), [server.url, ...args.map(String)], { execArgv: [...TYPESCRIPT] })
  t.teardown(() => { child.kill('SIGKILL') })
  await Promise.race([once(child, 'message'), once(child, 'exit').then(() => { throw new Error('the process ended before it was ready') })])
  return child
}

/** The events that the processes handled: key, data, attempt. */
export function linesOf (file: string): string[][] {
  return readFileSync(file, 'utf8').split('\n').slice(0, -1).map(line => line.split(' '))
}

/** Counts events, events that were handled twice, and events that are neither the next one of their key nor a repetition. */
export function judge (lines: string[][]): { events: number, duplicates: number, outOfOrder: number } {
  const last = new Map<string, number>()
  const seen = new Set<string>()
  let outOfOrder = 0
  for (const [key = '', data] of lines) {
    const value = Number(data)
    const before = last.get(key) ?? -1
    if (value !== before && value !== before + 1) outOfOrder++
    last.set(key, value)
    seen.add(`${key} ${value}`)
  }
  return { events: seen.size, duplicates: lines.length - seen.size, outOfOrder }
}
