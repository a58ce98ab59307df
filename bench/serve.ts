// What the servers of the benches share.
import type { FastifyInstance } from 'fastify'

/** Listens, tells the address, and when asked the CPU time that the process has used; ends with a signal, or with who started it. */
export async function serve (app: FastifyInstance): Promise<string> {
  process.on('message', message => {
    if (message !== 'cpu') return
    const { user, system } = process.cpuUsage()
    process.send?.({ cpu: user + system })
  })
  // An exit of its own, so that a profile is written; and nobody is left over where the bench itself has failed.
  for (const event of ['SIGINT', 'SIGTERM', 'disconnect'] as const) process.once(event, () => process.exit())
  return await app.listen({ port: 0, host: '127.0.0.1' })
}

/** To who started the process, or to whoever reads. */
export function tell (address: string): void {
  if (process.send === undefined) console.log(address)
  else process.send(address)
}
