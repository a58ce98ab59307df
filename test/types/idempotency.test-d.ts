import Fastify from 'fastify'
import { idempotency } from 'fastify-redis-suite'
import { DEFAULT_HEADERS, type IdempotencyPluginOptions, type RouteIdempotencyOptions } from 'fastify-redis-suite/idempotency'
import { expectError, expectNotAssignable, expectType } from 'tsd'

const app = Fastify()

app.register(idempotency)
app.register(idempotency, { ttl: '1h', redis: false, headers: [...DEFAULT_HEADERS, 'x-order'], onStoreError: 'open' })
expectError(app.register(idempotency, { maxKey: 1 }))
expectNotAssignable<IdempotencyPluginOptions>({ onStoreError: 'open' })

app.post('/pay', { config: { idempotency: true } }, async request => expectType<string | null>(request.idempotencyKey))
app.post('/order', { config: { idempotency: { required: true, scope: request => request.ip } } }, async () => '')
app.post('/key', { config: { idempotency: { scope: request => request.headers['x-api-key'], fingerprint: async request => request.url } } }, async () => '')
app.post('/tenant', { config: { idempotency: { scope: async request => `tenant ${request.host}` } } }, async () => '')
expectError(app.post('/number', { config: { idempotency: { scope: () => 5 } } }, async () => ''))
expectError(app.post('/wrong', { config: { idempotency: { scope: 'ip' } } }, async () => ''))
// The store is the plugin's.
expectError<RouteIdempotencyOptions>({ redis: false })
