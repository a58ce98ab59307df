import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import type { ExposeOption } from '../plugins/metrics/index.js'

/**
 * Returns who may read the metrics: scrapers with the token or, if no token is configured, clients on the same machine.
 */
export function exposeByToken (token: string | undefined): ExposeOption {
  if (token === undefined) return 'loopback'
  const expected = digest(`Bearer ${token}`)
  return ({ headers }: FastifyRequest) => timingSafeEqual(digest(headers.authorization ?? ''), expected)
}

function digest (text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
