import type { FastifyRequest } from 'fastify'

const ownRequests = new WeakSet<object>()

/** Marks a raw request that the suite itself sends to the app. The mark is the object's identity, so no client can forge it. */
export function markInternalRequest (raw: object): void {
  ownRequests.add(raw)
}

/** Whether the suite itself sent the request, such as a refresh in the background. */
export function isInternalRequest ({ raw }: Pick<FastifyRequest, 'raw'>): boolean {
  return ownRequests.has(raw)
}
