import fp from 'fastify-plugin'
import { keyPrefixOf, resolveClient } from '../shared/redis/client.js'
import { alreadyRegisteredError, invalidOptionError, namingRoute } from '../shared/plugin/errors.js'
import { guardRedis } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { createHooks, isSafe } from './hooks.js'
import { createMemoryStore } from './memory-store.js'
import { PendingWrites } from './pending-writes.js'
import { resolveOptions, resolveRoute, type IdempotencyPluginOptions, type RouteIdempotencyOptions } from './options.js'
import { createRedisStore } from './redis-store.js'
import type { Execution } from './execution.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The request's key, on a route with `config.idempotency`; null where it has none. To be handed on, say, to whoever takes the payment. */
    idempotencyKey: string | null
  }
  interface FastifyContextConfig {
    /** A request that comes again with the same `Idempotency-Key` has the answer that the first one got, and is not done again. */
    idempotency?: RouteIdempotencyOptions | boolean
  }
}

export { DEFAULT_HEADERS } from './options.js'
export type { IdempotencyPluginOptions, RouteIdempotencyOptions } from './options.js'

/**
 * `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header) for routes with `config.idempotency`: of all requests of one
 * caller with the same key one is done, and all have its answer.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION` at registration of the plugin or of a route, `FST_REDIS_SUITE_IDEMPOTENCY_ALREADY_REGISTERED`
 */
export const idempotency = fp<IdempotencyPluginOptions>(async function idempotency (fastify, given) {
  const { timeout, maxKeys, clock } = resolveOptions(given)
  if (fastify.hasRequestDecorator('idempotencyKey')) throw alreadyRegisteredError('idempotency', 'request.idempotencyKey')
  const client = resolveClient(fastify, 'idempotency', given.redis)
  const store = client === undefined ? createMemoryStore(maxKeys, clock) : createRedisStore(client, keyPrefixOf(client))
  const run = client === undefined ? <T>(operation: () => Promise<T>) => operation() : guardRedis(client, fastify.log, timeout, 'idempotency', clock, { isPatient: true }).run
  const runs = new Set<Execution>()
  fastify.decorateRequest('idempotencyKey', null)
  const owed = new PendingWrites({ store, run, log: fastify.log, clock })
  const addHooks = createHooks(fastify, { store, run, log: fastify.log, clock, runs, owed })

  const saw = watchRoutes(fastify).add('idempotency', fastify, () => false)

  fastify.addHook('onRoute', function (route) {
    saw(route)
    const config = route.config?.idempotency
    if (config === undefined || config === false) return
    // Fastify adds it where there is GET: also where there is POST as well.
    if (route.method === 'HEAD' && fastify.hasRoute({ method: 'GET', url: route.url, ...route.constraints && { constraints: route.constraints } })) return
    const resolved = namingRoute(route, () => {
      if ([route.method].flat().every(isSafe)) {
        throw invalidOptionError('idempotency', 'config.idempotency', config, 'only on a route that changes something, such as POST: clients may repeat GET and HEAD anyway')
      }
      return resolveRoute(given, config)
    })
    addHooks(this, route, resolved)
  })
  fastify.addHook('onClose', async () => {
    await Promise.all([...runs].map(each => each.close()))
    await owed.close()
  })
}, { name: 'fastify-redis-suite/idempotency', fastify: '5.x' })

export default idempotency
