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
expectError(app.post('/wrong', { config: { idempotency: { scope: 'ip' } } }, async () => ''))
// The store is the plugin's.
expectError<RouteIdempotencyOptions>({ redis: false })
