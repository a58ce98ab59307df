import { cpuMicros } from './cpu.js'
import type { Round } from './results.js'

/** Measures operations of this process. @param work - resolves with their number */
export async function measureCalls (work: () => Promise<number>): Promise<Round & { throughput: number, cpu: number }> {
  const [started, cpuBefore] = [performance.now(), cpuMicros()]
  const count = await work()
  const [ms, cpu] = [performance.now() - started, cpuMicros() - cpuBefore]
  return { throughput: 1000 * count / ms, cpu: cpu / count, failed: 0 }
}
