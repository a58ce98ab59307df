import type { FastifyReply } from 'fastify'

/**
 * Copies the status and the headers of a `Response` to the reply. Fastify does the same, but only after the `onSend`
 * hooks.
 *
 * @returns the body of a `Response`; any other payload unchanged, also a `Response` that has been read, which Fastify
 * refuses
 */
export function unwrapResponse (reply: FastifyReply, payload: unknown): unknown {
  if (!isResponse(payload) || payload.bodyUsed) return payload
  reply.code(payload.status)
  for (const [name, value] of payload.headers) reply.header(name, value)
  return payload.body
}

/** Uses Fastify's own check: the class may be that of a library. */
function isResponse (payload: unknown): payload is Response {
  return typeof payload === 'object' && payload !== null && !(payload instanceof Uint8Array) &&
    Object.prototype.toString.call(payload) === '[object Response]'
}
