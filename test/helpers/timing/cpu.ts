/** Milliseconds of CPU that this process uses for some work. Unlike wall time they do not depend on what else the machine does. */
export async function cpuTimeOf (work: () => unknown): Promise<number> {
  const before = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}
