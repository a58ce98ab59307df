const BEAT_MS = 5
const KEPT = 100_000

/** Milliseconds of the machine's clock, which all processes share and which is never set. */
export function monotonicMs (): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000
}

export interface StallCounter {
  /** For how many milliseconds since then the machine did not run this process. */
  since (moment: number): number
  stop (): void
}

/** Measures by how much beats of this process are late, without the CPU time that it used itself: its own work is no stall. */
export function countStalls (): StallCounter {
  const stalls: Array<{ at: number, ms: number }> = []
  let last = monotonicMs()
  let cpu = process.cpuUsage()
  const beat = () => {
    const now = monotonicMs()
    const { user, system } = process.cpuUsage(cpu)
    const ms = now - last - BEAT_MS - (user + system) / 1000
    if (ms > 1) stalls.push({ at: now, ms: Math.min(ms, now - last) })
    if (stalls.length > KEPT) stalls.shift()
    last = now
    cpu = process.cpuUsage()
  }
  const timer = setInterval(beat, BEAT_MS)
  timer.unref()
  return {
    since (moment) {
      beat()
      return stalls.reduce((sum, { at, ms }) => at > moment ? sum + Math.min(ms, at - moment) : sum, 0)
    },
    stop: () => clearInterval(timer)
  }
}
