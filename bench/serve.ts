// What the servers of the benches share.
import type { FastifyInstance } from 'fastify'

/** Listens, tells the address, and when asked the CPU time that the process has used; ends with a signal. */
export async function serve (app: FastifyInstance): Promise<string> {
  process.on('message', message => {
    if (message !== 'cpu') return
    const { user, system } = process.cpuUsage()
    process.send?.({ cpu: user + system })
  })
  // So that what a signal ends has time to write a profile.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit())
  return await app.listen({ port: 0, host: '127.0.0.1' })
}

/** To who started the process, or to whoever reads. */
export function tell (address: string): void {
  if (process.send === undefined) console.log(address)
  else process.send(address)
}
