import type { FastifyRequest } from 'fastify'

const internalRequests = new WeakSet<object>()

/** Marks a raw request that the suite sends to the app. The object's identity is the mark, so that no client can forge it. */
export function markInternalRequest (raw: object): void {
  internalRequests.add(raw)
}

/** Whether the suite sent the request, such as a background revalidation. */
export function isInternalRequest ({ raw }: Pick<FastifyRequest, 'raw'>): boolean {
  return internalRequests.has(raw)
}
