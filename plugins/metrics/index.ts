import type { FastifyInstance, FastifySchema } from 'fastify'
import fp from 'fastify-plugin'
/** @ts-ignore `any` where prom-client is not installed. */
import type { Registry } from 'prom-client'
import { watchRoutes } from '../shared/http/route-watch.js'
import { startTracing } from '../shared/plugin/tracing.js'
import { findSources } from './collectors.js'
import { timeRequests } from './http.js'
import type { MetricRegistry } from './metric-registry.js'
import { HTTP_DURATION, METRICS, REDIS_DURATION } from './names.js'
import { importPackage } from '../shared/plugin/optional-packages.js'
import { resolveMetricsOptions, type MetricsPluginOptions, type ResolvedMetricsOptions } from './options.js'
import { findClients, watchRedis } from './redis.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * The registry of `GET /metrics`, for the app's own metrics.
     *
     * @example
     * const orders = new Counter({ name: 'orders_total', help: 'Orders placed', registers: [app.metrics.registry] })
     */
    metrics: Metrics
  }
}

export interface Metrics {
  /** A registry of prom-client. */
  readonly registry: Registry
}

export type { Duration } from '../shared/plugin/duration.js'
export type { AccessRule } from '../shared/http/access-rule.js'
export type { ExposeOption, MetricsPluginOptions } from './options.js'

/**
 * Exposes Prometheus metrics at `GET /metrics`: requests by route, commands of Redis, and every registered plugin of
 * the suite.
 *
 * Needs the package `prom-client`, and for the option `tracing` the package `@opentelemetry/api`.
 *
 * @throws `FST_REDIS_SUITE_METRICS_INVALID_OPTION`, `FST_REDIS_SUITE_METRICS_MISSING_PACKAGE`
 *
 * @example
 * await app.register(metrics, { expose: 'loopback' })
 */
export const metrics = fp<MetricsPluginOptions>(async function metrics (fastify, given) {
  const options = resolveMetricsOptions(given)
  watchRoutes(fastify)
  const {
    MetricRegistry, Registry, addProcessMetrics
  } = await importPackage('metrics', 'prom-client', () => import('./prometheus.js'))
  // A second registration without a registry of its own exposes the same metrics by another route.
  const above = fastify.hasDecorator('metrics') ? fastify.metrics.registry : undefined
  const registry = options.registry ?? above ?? new Registry()
  const metricRegistry = MetricRegistry.of(registry)
  const names = Object.values(METRICS).flatMap(Object.keys).concat(REDIS_DURATION).map(name => options.prefix + name)
  metricRegistry.requireFree(options.http ? [...names, HTTP_DURATION] : names)
  const cleanups = [metricRegistry.retain()]
  fastify.addHook('onClose', async () => { for (const cleanUp of cleanups.splice(0).reverse()) cleanUp() })

  if (registry !== above) {
    if (options.http) {
      const histogram = metricRegistry.histogram(
        HTTP_DURATION, 'Requests by route, from the first hook to the last byte', ['method', 'route', 'status_code'],
        options.buckets
      )
      timeRequests(fastify, histogram, options.maxRoutes, options.exclude)
    }
    if (!Object.hasOwn(fastify, 'metrics')) fastify.decorate('metrics', { registry })
  }
  if (options.defaultMetrics) metricRegistry.onLastRelease(addProcessMetrics(registry))
  if (Object.keys(options.labels).length > 0) registry.setDefaultLabels(options.labels)
  if (options.tracing) cleanups.push(await importPackage('metrics', '@opentelemetry/api', startTracing))
  const { path } = options
  const isExposed = path !== false && registry === above &&
    fastify.hasRoute({ method: 'GET', url: fastify.prefix + path })
  if (path !== false && !isExposed) addRoute(fastify, registry, path, options)
  // Plugins that are registered later have their decorators by then.
  fastify.addHook('onReady', async () => { cleanups.push(...addSources(fastify, metricRegistry, options)) })
}, { name: 'fastify-redis-suite/metrics', fastify: '5.x || 6.x' })

export default metrics

/** @returns the functions that remove them */
function addSources (
  fastify: FastifyInstance, metricRegistry: MetricRegistry, options: ResolvedMetricsOptions
): Array<() => void> {
  const { prefix, maxRoutes, redisBuckets, clock } = options
  const clients = findClients(fastify)
  const sources = findSources(fastify, maxRoutes)
  if (clients.length > 0) {
    const histogram = metricRegistry.histogram(
      prefix + REDIS_DURATION, 'Commands by name, from writing to the reply', ['client', 'command'], redisBuckets
    )
    sources.push(
      ...clients.map(([name, client]) =>
        ({ observed: client, create: () => watchRedis(client, name, histogram, clock) }))
    )
  }
  return sources.map(source => metricRegistry.add(source, options))
}

// Scrapes are not limited, cached or refused by the suite or @fastify/under-pressure, and have no session.
const EXEMPT = { rateLimit: false, cache: false, session: false, pressureHandler: () => {} } as const
// @fastify/swagger leaves the route out of the app's documentation.
const HIDDEN: FastifySchema & { hide: boolean } = { hide: true }

function addRoute (
  fastify: FastifyInstance, registry: Registry, path: string,
  { expose, isClosedByDefault, logLevel }: ResolvedMetricsOptions
): void {
  let isLogged = !isClosedByDefault
  fastify.get(path, { config: EXEMPT, logLevel, schema: HIDDEN }, async (request, reply) => {
    if (!await expose(request)) {
      if (!isLogged) {
        fastify.log.warn(
          { plugin: 'metrics', address: request.ip },
          'metrics: a request from another machine or through a proxy got 404: set the option "expose" to allow it'
        )
      }
      isLogged = true
      return reply.callNotFound()
    }
    const text = await registry.metrics()
    return await reply.header('cache-control', 'no-store').type(registry.contentType).send(text)
  })
}
