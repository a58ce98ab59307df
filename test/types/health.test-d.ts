import Fastify from 'fastify'
import { health } from 'fastify-redis-suite'
import { measurements, type CheckResults, type HealthPluginOptions } from 'fastify-redis-suite/health'
import { expectError, expectNotAssignable, expectType } from 'tsd'

const app = Fastify()

app.register(health)
app.register(health, { prefix: '/status', paths: { startup: false }, details: request => request.ip === '::1', underPressure: { maxEventLoopDelay: 1000 } })
expectError(app.register(health, { details: 'everyone' }))
expectNotAssignable<HealthPluginOptions>({ paths: { live: true } })
// It asks what a check is to find out by itself.
expectError<HealthPluginOptions>({ underPressure: { healthCheck: async () => true } })

app.health.addCheck('mail', async () => 'ok', { critical: false, timeout: '2s' })
app.health.addCheck('disk', () => measurements({ used: { observedValue: 1, observedUnit: 'GB', status: 'warn' } }))
expectError(app.health.addCheck('mail', async () => 'ok', { isCritical: false }))
expectError(measurements({ used: { status: 'bad' } }))
expectType<CheckResults>(await app.health.results())
expectType<Promise<void>>(app.health.drain())
