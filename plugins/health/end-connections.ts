import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { FastifyInstance } from 'fastify'

type Server = FastifyInstance['server']

const REQUEST_START = 'http.server.request.start'

/**
 * Ends each connection with its next response: a balancer of connections, such as a Service of Kubernetes, moves no
 * client whose connection stays open.
 *
 * @returns a function that stops watching the app's servers
 */
export function endConnections (main: Server): () => void {
  limit(main)
  const listeners = new Set(main.listeners('request'))
  // Fastify has a server for each address of `localhost`, and hands out only the first one. All have its listener.
  const watch = (message: unknown): void => {
    const { server } = message as { server: Server }
    if (server !== main && server.listeners('request').some(listener => listeners.has(listener))) limit(server)
  }
  subscribe(REQUEST_START, watch)
  return () => { unsubscribe(REQUEST_START, watch) }
}

/**
 * Limits each connection to one more request. A limit that the app has set stays: Node.js counts its requests from the
 * start, and would refuse those above a lower limit.
 */
function limit (server: Partial<Server>): void {
  // A server of HTTP/2 has no limit, and applies one to its clients of HTTP/1.1 (`allowHTTP1`).
  if ((server.maxRequestsPerSocket ?? 0) === 0) server.maxRequestsPerSocket = 1
}
