import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

export interface ConnectionBalancer {
  url: string
  /** The ports of the backends that were ready at the last probe. */
  readonly ready: readonly number[]
  /** Probes this backend from now on. */
  add (port: number): void
}

/**
 * Balances connections, and not requests, as a Service of Kubernetes does: a connection stays with its backend, also when that is no longer ready.
 * Backends are probed by `GET /health/ready`.
 */
export async function startConnectionBalancer (t: Test, { probeMs = 50 } = {}): Promise<ConnectionBalancer> {
  const backends: number[] = []
  const sockets = new Set<Socket>()
  let ready: number[] = []
  let next = 0
  const server = createServer(client => {
    const port = ready[next++ % ready.length]
    if (port === undefined) return client.destroy()
    const backend = connect(port, '127.0.0.1')
    for (const [socket, other] of [[client, backend], [backend, client]] as const) {
      sockets.add(socket)
      socket.pipe(other)
      socket.on('error', () => other.destroy()).on('close', () => {
        sockets.delete(socket)
        other.end()
      })
    }
  })
  const prober = setInterval(async () => {
    const states = await Promise.all(backends.map(async port => await fetch(`http://127.0.0.1:${port}/health/ready`, { headers: { connection: 'close' } }).then(({ status }) => status === 200, () => false)))
    ready = backends.filter((_port, i) => states[i])
  }, probeMs)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    clearInterval(prober)
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get ready () { return ready },
    add: port => { backends.push(port) }
  }
}
