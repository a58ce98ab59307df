import { setTimeout as sleep } from 'node:timers/promises'

/** Asks `check` again until it says true; an error it throws counts as "not yet". */
export async function until (what: string, check: () => Promise<boolean> | boolean, timeout = 10_000): Promise<void> {
  const deadline = Date.now() + timeout
  for (;;) {
    let reason = ''
    try {
      if (await check()) return
    } catch (error) {
      reason = `: ${(error as Error).message}`
    }
    if (Date.now() >= deadline) throw new Error(`Waited ${timeout} ms in vain: ${what}${reason}`)
    await sleep(20)
  }
}
