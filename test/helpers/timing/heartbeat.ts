// A bound in milliseconds is a promise about the code, and not about other processes. Heartbeats in this process and in a second one distinguish a
// stall of the machine from one of the code: only the time that the machine withheld is added to the bound.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { TYPESCRIPT } from '../compiled/exec-argv.js'
import { countStalls, monotonicMs } from './stalls.js'

export interface Judgement {
  /** Milliseconds since the span began. */
  elapsed: number
  /** The milliseconds of them in which the machine did not run this process, or an idle one. */
  stalled: number
}

export interface Span {
  judge (): Promise<Judgement>
  /** Asserts that no more than `bound` milliseconds have passed since the span began, without those that the machine withheld. */
  within (bound: number, what: string): Promise<void>
  /**
   * Like `within`, for a wait that is longer on a machine short of CPU, by a documented rule.
   *
   * @param patience - how much longer it may then take
   */
  withinPatiently (bound: number, patience: number, what: string): Promise<void>
}

/** The withheld milliseconds from which a process considers itself short of CPU: 100 ms per second, which it measures differently from a heartbeat. */
const SHORT_MS = 30

export interface Heartbeat {
  /** Starts a measurement. */
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
