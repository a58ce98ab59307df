import type { FastifyRequest } from 'fastify'

/** As `logLevel` of a route. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** Who may see something: everyone, no one, requests from this machine, or whom the function says. */
export type Audience = boolean | 'loopback' | ((request: FastifyRequest) => boolean | Promise<boolean>)

const LOOPBACK = new Set(['127.0.0.1', '::1', '::ffff:127.0.0.1'])

export function guardOf (audience: Audience): (request: FastifyRequest) => boolean | Promise<boolean> {
  if (typeof audience === 'function') return audience
  // The peer of the socket, not `request.ip`, which a header can forge where a proxy is trusted.
  if (audience === 'loopback') return request => LOOPBACK.has(request.socket.remoteAddress ?? '')
  return () => audience
}
