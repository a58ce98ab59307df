import type { FastifyRequest } from 'fastify'

const internalRequests = new WeakSet<object>()

/** Marks a raw request of the suite to the app. The mark is the object's identity, so that no client can forge it. */
export function markInternalRequest (raw: object): void {
  internalRequests.add(raw)
}

/** Whether the suite sent the request, such as a background revalidation. */
export function isInternalRequest ({ raw }: Pick<FastifyRequest, 'raw'>): boolean {
  return internalRequests.has(raw)
}
