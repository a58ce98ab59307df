import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Registry } from 'prom-client'
import { watchRoutes } from '../shared/http/route-watch.js'
import { startTracing } from '../shared/plugin/tracing.js'
import { MetricRegistry } from './metric-registry.js'
import { findClients } from './clients.js'
import { timeRequests } from './http.js'
import { HTTP_DURATION, METRICS, REDIS_DURATION } from './names.js'
import { resolveMetricsOptions, type MetricsPluginOptions, type ResolvedMetricsOptions } from './options.js'
import { addProcessMetrics } from './process.js'
import { watchRedis } from './redis.js'
import { addRoute } from './route.js'
import { findSources } from './collectors.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** What is told, for metrics of an app's own. */
    metrics: Metrics
  }
}

export interface Metrics {
  readonly registry: Registry
}

export type { ExposeOption, MetricsPluginOptions } from './options.js'

/**
 * `GET /metrics` for Prometheus: requests by route, and what the other plugins of the suite do, whichever there are.
 *
 * @throws `FST_REDIS_SUITE_METRICS_INVALID_OPTION`
 */
export const metrics = fp<MetricsPluginOptions>(async function metrics (fastify, given) {
  const options = resolveMetricsOptions(given)
  watchRoutes(fastify)
  // Registered again, in the same context or below it, without a registry of its own, it tells the same by another route.
  const above = fastify.hasDecorator('metrics') ? fastify.metrics.registry : undefined
  const registry = options.registry ?? above ?? new Registry()
  const book = MetricRegistry.of(registry)
  const names = Object.values(METRICS).flatMap(Object.keys).concat(REDIS_DURATION).map(name => options.prefix + name)
  book.requireFree(options.http ? [...names, HTTP_DURATION] : names)
  const undo = [book.enter()]
  fastify.addHook('onClose', async () => { for (const step of undo.splice(0).reverse()) step() })

  if (registry !== above) {
    if (options.http) {
      const histogram = book.histogram(HTTP_DURATION, 'Requests by route, from the first hook to the last byte', ['method', 'route', 'status_code'], options.buckets)
      timeRequests(fastify, histogram, options.maxRoutes, options.isExcluded)
    }
    if (!Object.hasOwn(fastify, 'metrics')) fastify.decorate('metrics', { registry })
  }
  if (options.defaultMetrics) book.atTheEnd(addProcessMetrics(registry))
  if (Object.keys(options.labels).length > 0) registry.setDefaultLabels(options.labels)
  if (options.tracing) undo.push(await startTracing())
  const { path } = options
  const isTold = path !== undefined && registry === above && fastify.hasRoute({ method: 'GET', url: fastify.prefix + path })
  if (path !== undefined && !isTold) addRoute(fastify, registry, path, options)
  // What is registered later is there then.
  fastify.addHook('onReady', async () => { undo.push(...addSources(fastify, book, options)) })
}, { name: 'fastify-redis-suite/metrics', fastify: '5.x' })

export default metrics

/** @returns what takes them out */
function addSources (fastify: FastifyInstance, book: MetricRegistry, { prefix, timeout, maxRoutes, redisBuckets, clock }: ResolvedMetricsOptions): Array<() => void> {
  const clients = findClients(fastify)
  const sources = findSources(fastify, maxRoutes).map(([of, make]) => book.add(of, make, prefix, { timeout, clock }))
  if (clients.length === 0) return sources
  const histogram = book.histogram(prefix + REDIS_DURATION, 'Commands by name, from when they are written to their answers', ['client', 'command'], redisBuckets)
  return [...sources, ...clients.map(([name, client]) => book.add(client, () => watchRedis(client, name, histogram, clock), prefix, { timeout, clock }))]
}
