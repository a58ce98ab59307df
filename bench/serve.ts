// Shared by the servers of the benchmarks.
import type { FastifyInstance } from 'fastify'
import { cpuMicros } from './frame/cpu.js'

/** Functions for the CPU time of this process, and of those that serve with it. */
const measured = [cpuMicros]

/** Adds a process that serves requests, by its CPU time in microseconds. */
export function measureAlso (micros: () => number): void {
  measured.push(micros)
}

/** Listens, and sends the CPU time on request; the process ends with a signal, or with its parent. */
export async function serve (app: FastifyInstance): Promise<string> {
  process.on('message', message => {
    if (message === 'cpu') process.send?.({ cpu: measured.reduce((sum, micros) => sum + micros(), 0) })
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
