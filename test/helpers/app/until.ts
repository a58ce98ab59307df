import { setTimeout as sleep } from 'node:timers/promises'

// A machine that stalls for longer has not been waiting.
const MOST_A_ROUND = 1000

/** Repeats `check` until it returns true; an error that it throws counts as "not yet". */
export async function until (what: string, check: () => Promise<boolean> | boolean, timeout = 10_000): Promise<void> {
  let waited = 0
  for (let last = performance.now(); ; await sleep(20)) {
    let reason = ''
    try {
      if (await check()) return
    } catch (error) {
      reason = `: ${(error as Error).message}`
    }
    const now = performance.now()
    waited += Math.min(now - last, MOST_A_ROUND)
    last = now
    if (waited >= timeout) throw new Error(`Waited ${timeout} ms in vain: ${what}${reason}`)
  }
}
