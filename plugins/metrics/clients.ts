import type { FastifyInstance } from 'fastify'
import type { RedisClient } from '../shared/redis/client.js'

/** The clients of `fastify.redis`, by namespace; the one without is `default`. */
export function findClients (fastify: FastifyInstance): Array<readonly [name: string, client: RedisClient]> {
  const redis: unknown = fastify.hasDecorator('redis') ? fastify.redis : undefined
  if (typeof redis !== 'object' || redis === null) return []
  const named = Object.entries(redis).filter((entry): entry is [string, RedisClient] => isClient(entry[1]))
  return isClient(redis) ? [['default', redis]] : named
}

function isClient (value: unknown): value is RedisClient {
  return typeof value === 'object' && value !== null && 'sendCommand' in value && 'duplicate' in value && 'status' in value
}
