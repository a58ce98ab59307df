import { createRequire } from 'node:module'
import type { FastifyPluginAsync } from 'fastify'

/** `@fastify/rate-limit`, without its types: they declare the same decorators as ours. */
export const peerRateLimit: FastifyPluginAsync<Record<string, unknown>> =
  createRequire(import.meta.url)('@fastify/rate-limit')
