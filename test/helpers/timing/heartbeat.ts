// A bound in milliseconds is a promise about the code, not about what else the machine does. A heartbeat in this process and one in a
// second process tell a stall of the machine from one of ours: whatever the machine withheld is added to the bound, and nothing else.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { TYPESCRIPT } from '../compiled/exec-argv.js'
import { countStalls, monotonicMs } from './stalls.js'

export interface Judgement {
  /** Milliseconds since the span began. */
  elapsed: number
  /** For how many of them this process, or one that had nothing else to do, was not let run. */
  stalled: number
}

export interface Span {
  judge (): Promise<Judgement>
  /** Asserts that no more than `bound` milliseconds have passed since the span began, without those that the machine withheld. */
  within (bound: number, what: string): Promise<void>
  /**
   * As `within`, for what waits longer where the machine is short of CPU, by a documented rule.
   *
   * @param patience - how much longer it may take then
   */
  withinPatiently (bound: number, patience: number, what: string): Promise<void>
}

/** The machine withheld so much: a process takes itself for short of CPU from 100 ms a second on, and measures it otherwise than a heartbeat does. */
const SHORT_MS = 30

export interface Heartbeat {
  /** Begins to measure. */
  span (): Span
}

export async function startHeartbeat (t: Test): Promise<Heartbeat> {
  const own = countStalls()
  const child = fork(new URL('stalls-process.ts', import.meta.url), { execArgv: [...TYPESCRIPT] })
  t.teardown(() => { own.stop(); child.kill('SIGKILL') })
  await once(child, 'message')
  const others = async (since: number): Promise<number> => {
    child.send(since)
    const [stalled] = await once(child, 'message') as [number]
    return stalled
  }

  function span (): Span {
    const since = monotonicMs()
    const judge = async (): Promise<Judgement> => {
      const elapsed = monotonicMs() - since
      return { elapsed, stalled: own.since(since) + await others(since) }
    }
    const withinPatiently: Span['withinPatiently'] = async (bound, patience, what) => {
      const { elapsed, stalled } = await judge()
      const limit = bound + (stalled >= SHORT_MS ? patience : 0)
      t.ok(elapsed <= limit + stalled, `${what}: ${Math.round(elapsed)} ms of ${limit}, and ${Math.round(stalled)} in which the machine stalled`)
    }
    return { judge, withinPatiently, within: async (bound, what) => await withinPatiently(bound, 0, what) }
  }
  return { span }
}
