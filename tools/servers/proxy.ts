// A TCP proxy that simulates network faults.
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import { register, unregister } from './registry.js'

export interface Proxy {
  host: string
  port: number
  /** The delay of every reply (requests pass at once). */
  delay (ms: number): void
  /** New connections go to this port. */
  target (port: number): void
  /** Destroys all connections; new ones are accepted. */
  sever (): void
  /** While true, connections are accepted and kept open, and nothing passes. Then the held data passes. */
  blackhole (isOn: boolean): void
  /**
   * Destroys the connection of the next request that contains `text`, or of the n-th one from now on, not counting
   * PINGs: before the server receives it, or in place of the reply. A pipeline counts as one request.
   *
   * @returns how many requests have been counted
   */
  breakAt (request: string | number, lost?: 'request' | 'reply'): () => number
  stop (): Promise<void>
}

interface State {
  port: number
  delay: number
  isHole: boolean
  broken: { at: string | number, lost: 'request' | 'reply', count: number } | undefined
  sockets: Set<Socket>
}

/** Listens on a free port, and forwards to `targetPort` on 127.0.0.1. */
export async function startProxy (targetPort: number): Promise<Proxy> {
  const host = '127.0.0.1'
  const state: State = { port: targetPort, delay: 0, isHole: false, broken: undefined, sockets: new Set() }
  // A half-closed connection is forwarded as such, after the data before it.
  const server = createServer({ allowHalfOpen: true, noDelay: true }, client => {
    const target = connect({ host, port: state.port, allowHalfOpen: true, noDelay: true })
    pair(client, target, state)
  })
  server.listen(0, host)
  await once(server, 'listening')

  const sever = () => { for (const socket of state.sockets) socket.destroy() }
  const proxy: Proxy = {
    host,
    port: (server.address() as AddressInfo).port,
    delay: ms => { state.delay = ms },
    target: port => { state.port = port },
    sever,
    blackhole: isOn => {
      state.isHole = isOn
      for (const socket of state.sockets) flow(socket, state)
    },
    breakAt: (at, lost = 'reply') => {
      const broken = { at, lost, count: 0 }
      state.broken = broken
      return () => broken.count
    },
    stop: async () => {
      unregister(proxy)
      if (!server.listening) return
      const closed = once(server, 'close')
      server.close()
      sever()
      await closed
    }
  }
  register(proxy)
  return proxy
}

function pair (client: Socket, target: Socket, state: State): void {
  client.on('data', (chunk: Buffer) => {
    const { broken } = state
    if (broken === undefined || /\r\nping\r\n/i.test(chunk.toString('latin1'))) return
    broken.count++
    if (typeof broken.at === 'string' ? !chunk.includes(broken.at) : broken.count !== broken.at) return
    state.broken = undefined
    // Before the listeners that forward the request or the reply.
    if (broken.lost === 'request') target.destroy()
    else target.prependOnceListener('data', () => client.destroy())
  })
  forward(client, target, state, () => 0)
  forward(target, client, state, () => state.delay)
}

function forward (from: Socket, to: Socket, state: State, delay: () => number): void {
  const later = inOrder()
  state.sockets.add(from)
  flow(from, state)
  from.on('data', chunk => later(delay(), () => { if (!to.destroyed) to.write(chunk) }))
  from.on('end', () => later(delay(), () => { to.end() }))
  // 'close' follows, and handles it.
  from.on('error', () => {})
  from.on('close', hadError => {
    state.sockets.delete(from)
    if (hadError || !from.readableEnded) to.destroy()
  })
}

function flow (socket: Socket, state: State): void {
  if (state.isHole) socket.pause()
  else socket.resume()
}

/** Runs each action after its delay, and never before earlier actions. */
function inOrder (): (delay: number, action: () => void) => void {
  let last = Promise.resolve()
  let waiting = 0
  return (delay, action) => {
    if (delay === 0 && waiting === 0) return action()
    waiting++
    const due = new Promise<void>(resolve => { setTimeout(resolve, delay).unref() })
    last = Promise.all([last, due]).then(() => {
      waiting--
      action()
    })
  }
}
