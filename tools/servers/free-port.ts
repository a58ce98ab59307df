import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'

// Ports below those of outgoing connections (Linux 32768, macOS 49152): while a server is dead, no outgoing connection
// can use its port, so that restart() finds it free. The port + 10000 is the Cluster bus of the same node, and free as
// well.
const FIRST = 10_000
const LAST = 19_999
const BUS = 10_000

const given = new Set<number>()

export async function freePort (): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = randomInt(FIRST, LAST + 1)
    if (given.has(port)) continue
    given.add(port)
    if (await isFree(port) && await isFree(port + BUS)) return port
  }
  throw new Error(`No free port between ${FIRST} and ${LAST}`)
}

async function isFree (port: number): Promise<boolean> {
  const server = createServer()
  try {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    server.close()
    await once(server, 'close')
    return true
  } catch {
    return false
  }
}
