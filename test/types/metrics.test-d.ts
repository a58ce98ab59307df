import Fastify from 'fastify'
import { Registry } from 'prom-client'
import { metrics } from 'fastify-redis-suite'
import type { MetricsPluginOptions } from 'fastify-redis-suite/metrics'
import { expectError, expectNotAssignable, expectType } from 'tsd'

const app = Fastify()

app.register(metrics)
app.register(metrics, { path: false, registry: new Registry(), labels: { app: 'shop' }, buckets: [0.1, 1], tracing: true })
app.register(metrics, { expose: 'loopback' })
app.register(metrics, { expose: false })
app.register(metrics, { expose: async request => request.ip === '10.0.0.5' })
app.register(metrics, { exclude: ['/health*', 'unmatched'] })
expectError(app.register(metrics, { expose: 'everyone' }))
expectError(app.register(metrics, { exclude: '/health*' }))
expectNotAssignable<MetricsPluginOptions>({ labels: { instance: 1 } })
expectType<Registry>(app.metrics.registry)
