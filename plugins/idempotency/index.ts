import fp from 'fastify-plugin'
import { keyPrefixOf, resolveClient } from '../shared/redis/client.js'
import { alreadyRegisteredError, invalidOptionError, namingRoute } from '../shared/plugin/errors.js'
import { guardRedis } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { createHooks, isSafe } from './hooks.js'
import { createMemoryStore } from './memory-store.js'
import { PendingWrites } from './pending-writes.js'
import {
  resolvePluginOptions, resolveRoute, type IdempotencyPluginOptions, type RouteIdempotencyOptions
} from './options.js'
import { createRedisStore } from './redis-store.js'
import type { Execution } from './execution.js'

declare module 'fastify' {
  interface FastifyRequest {
    /**
     * The key of the request, on a route with `config.idempotency`; `null` if it has none. Pass it on, for example, to
     * a payment provider.
     *
     * @example
     * await payments.charge(amount, { idempotencyKey: request.idempotencyKey })
     */
    idempotencyKey: string | null
  }
  interface FastifyContextConfig {
    /** Runs requests of a caller with the same `Idempotency-Key` once: repetitions get the stored response. */
    idempotency?: RouteIdempotencyOptions | boolean
  }
}

export type { Duration } from '../shared/plugin/duration.js'
export { DEFAULT_HEADERS } from './options.js'
export type { IdempotencyPluginOptions, RouteIdempotencyOptions } from './options.js'

/**
 * Safe retries with `Idempotency-Key` on routes with `config.idempotency`: requests of one caller with the same key run
 * once, on one instance, and all get the same response.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION` at registration of the plugin or of a route
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_ALREADY_REGISTERED` at registration of the plugin
 * @see https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
 *
 * @example
 * await app.register(idempotency, { ttl: '24h' })
 * app.post('/orders', { config: { idempotency: true } }, placeOrder)
 */
export const idempotency = fp<IdempotencyPluginOptions>(async function idempotency (fastify, given) {
  const { timeout, maxKeys, clock } = resolvePluginOptions(given)
  if (fastify.hasRequestDecorator('idempotencyKey')) {
    throw alreadyRegisteredError('idempotency', 'request.idempotencyKey')
  }
  const client = resolveClient(fastify, 'idempotency', given.redis)
  const store = client === undefined ? createMemoryStore(maxKeys, clock) : createRedisStore(client, keyPrefixOf(client))
  const run = client === undefined
    ? <T>(operation: () => Promise<T>) => operation()
    : guardRedis(client, fastify.log, timeout, 'idempotency', clock, { isPatient: true }).run
  const executions = new Set<Execution>()
  fastify.decorateRequest('idempotencyKey', null)
  const pendingWrites = new PendingWrites({ store, run, log: fastify.log, clock })
  const addHooks = createHooks(fastify, { store, run, log: fastify.log, clock, executions, pendingWrites })

  const noteRoute = watchRoutes(fastify).add('idempotency', fastify, () => false)

  fastify.addHook('onRoute', function (route) {
    noteRoute(route)
    const config = route.config?.idempotency
    if (config === undefined || config === false) return
    // Fastify adds HEAD to each route with GET, also if the route has POST as well.
    if (route.method === 'HEAD' &&
      fastify.hasRoute({ method: 'GET', url: route.url, ...route.constraints && { constraints: route.constraints } })) {
      return
    }
    const resolved = namingRoute(route, () => {
      if ([route.method].flat().every(isSafe)) {
        throw invalidOptionError(
          'idempotency', 'config.idempotency', config,
          'left out on a route with safe methods only: clients may repeat GET and HEAD without a key'
        )
      }
      return resolveRoute(given, config)
    })
    addHooks(this, route, resolved)
  })
  fastify.addHook('onClose', async () => {
    await Promise.all([...executions].map(execution => execution.close()))
    await pendingWrites.close()
  })
}, { name: 'fastify-redis-suite/idempotency', fastify: '5.x || 6.x' })

export default idempotency
