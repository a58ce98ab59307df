import type { FastifyRequest } from 'fastify'

/** `fastify.sessions.watch` of this suite's session plugin. Plugins do not import one another. */
type Watch = (request: FastifyRequest, onEnd: () => void, options: { interval: number }) => () => void

/**
 * Calls a function when the request's session ends.
 *
 * @param interval - milliseconds within which that is found while no message can tell it
 * @returns a function that ends the watch; undefined where there is no session plugin
 */
export function watchSession (request: FastifyRequest, interval: number, onEnd: () => void): (() => void) | undefined {
  const sessions: unknown = Reflect.get(request.server, 'sessions')
  if (typeof sessions !== 'object' || sessions === null || !('watch' in sessions) || typeof sessions.watch !== 'function') return undefined
  return (sessions.watch as Watch)(request, onEnd, { interval })
}
