// Shared by the servers of the benchmarks.
import type { FastifyInstance } from 'fastify'

/** Listens, prints the address, and on request the CPU time of the process; ends with a signal, or with its parent. */
export async function serve (app: FastifyInstance): Promise<string> {
  process.on('message', message => {
    if (message !== 'cpu') return
    const { user, system } = process.cpuUsage()
    process.send?.({ cpu: user + system })
  })
  // Exits itself, so that a profile is written, and no process is left over if the benchmark fails.
  for (const event of ['SIGINT', 'SIGTERM', 'disconnect'] as const) process.once(event, () => process.exit())
  return await app.listen({ port: 0, host: '127.0.0.1' })
}

/** Sends a value to the parent process, or prints it. */
export function tell (address: string): void {
  if (process.send === undefined) console.log(address)
  else process.send(address)
}
