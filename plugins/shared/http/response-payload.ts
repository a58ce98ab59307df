import type { FastifyReply } from 'fastify'

/**
 * Puts the status and the headers of a `Response` that is the payload onto the reply. Fastify does the same, but after the `onSend` hooks, which
 * would judge the reply without them.
 *
 * @returns the body of a `Response`; any other payload as it is, and so a `Response` that has been read, which Fastify refuses
 */
export function unwrapResponse (reply: FastifyReply, payload: unknown): unknown {
  if (!isResponse(payload) || payload.bodyUsed) return payload
  reply.code(payload.status)
  for (const [name, value] of payload.headers) reply.header(name, value)
  return payload.body
}

/** As Fastify tells: it may be of another library than the platform's. */
function isResponse (payload: unknown): payload is Response {
  return typeof payload === 'object' && payload !== null && !(payload instanceof Uint8Array) && Object.prototype.toString.call(payload) === '[object Response]'
}
