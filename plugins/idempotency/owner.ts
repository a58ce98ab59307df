import type { FastifyRequest } from 'fastify'

/**
 * Who sent a request, by what tells callers apart here. Somebody without any of it is known by the address alone:
 * to repeat a request from another one is then to send a new one, which is better than another one's answer.
 */
export function ownerOf (request: FastifyRequest): string {
  const session: unknown = Reflect.get(request, 'session')
  const user = property(session, 'userId')
  if (typeof user === 'string' || typeof user === 'number') return `user ${user}`
  const { authorization, cookie } = request.headers
  if (authorization !== undefined) return `authorization ${authorization}`
  // One that was made for this request is unlike that of its repetition.
  const id = property(session, 'sessionId')
  const isKnown = typeof id === 'string' && id !== '' && cookie !== undefined && (cookie.includes(id) || cookie.includes(encodeURIComponent(id)))
  return isKnown ? `session ${id}` : `address ${request.ip}`
}

function property (object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null ? Reflect.get(object, name) : undefined
}
