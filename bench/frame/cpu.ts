/** Returns the CPU time of this process, in microseconds. */
export function cpuMicros (): number {
  const { userCPUTime, systemCPUTime } = process.resourceUsage()
  return userCPUTime + systemCPUTime
}
