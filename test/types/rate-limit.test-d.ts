import Fastify from 'fastify'
import { rateLimit } from 'fastify-redis-suite'
import type { Decision, Hold, ManualResult, RateLimitPluginOptions, RateLimitState, RouteRateLimitOptions } from 'fastify-redis-suite/rate-limit'
import { normalizeIP } from 'fastify-redis-suite/rate-limit'
import { expectAssignable, expectError, expectNotAssignable, expectType } from 'tsd'

const app = Fastify()

app.register(rateLimit)
app.register(rateLimit, { max: 100, timeWindow: '1 minute', keyGenerator: request => request.ip, allowList: ['10.0.0.0/8'] })
app.register(rateLimit, { limits: [{ max: 10, timeWindow: '1s' }, { max: 100, timeWindow: 60_000, name: 'minute' }], algorithm: 'gcra' })
app.register(rateLimit, { onExceeding: async () => {}, onExceeded: async (request, key) => key === request.ip, onBanReach: () => {} })
expectType<() => void>(app.rateLimiter.on('allowed', async () => {}))
expectError(app.register(rateLimit, { maximum: 100 }))
expectNotAssignable<RateLimitPluginOptions>({ algorithm: 'fixed-window' })
expectNotAssignable<RateLimitPluginOptions>({ onStoreError: 'throw' })
expectNotAssignable<RateLimitPluginOptions>({ max: '100' })

app.post('/login', { config: { rateLimit: { max: 5, timeWindow: '15 minutes', cost: request => request.url.length } } }, async () => '')
expectError(app.get('/wrong', { config: { rateLimit: { max: 'many' } } }, async () => ''))
app.get('/free', { config: { rateLimit: false } }, async () => '')
expectAssignable<RouteRateLimitOptions>({ max: async (request, key) => key === request.ip ? 1 : 2 })
// The store is the plugin's.
expectError<RouteRateLimitOptions>({ redis: false })

app.get('/hook', { preHandler: app.rateLimit({ max: 5 }) }, async request => {
  expectType<RateLimitState | null>(request.rateLimit)
  await request.rateLimit?.charge(5)
  expectType<ManualResult>(await app.createRateLimit({ max: 5 })(request))
})

app.addHook('onRequest', app.rateLimit())
app.addHook('preParsing', app.rateLimit())
app.route({ method: 'GET', url: '/hooks', onRequest: app.rateLimit(), preParsing: [app.rateLimit()], preValidation: app.rateLimit(), preHandler: [app.rateLimit()], handler: async () => '' })
app.get<{ Params: { id: string } }>('/awaited/:id', async (request, reply) => {
  expectType<Promise<void>>(app.rateLimit({ max: 5 })(request, reply))
  await app.createRateLimit()(request, { increment: false })
})
app.addHook('preHandler', async (request, reply) => { await app.rateLimit()(request, reply) })
expectError(app.rateLimit()(1, 2))

const policy = { name: 'login', max: 5, timeWindow: '15 minutes' }
const decision = await app.rateLimiter.consume('ann', policy, 2)
expectType<Decision>(decision)
expectType<boolean>(decision.allowed)
expectError(decision.allowed = true)
await app.rateLimiter.refund('ann', policy, decision)
await app.rateLimiter.reset('ann', { method: 'POST', url: '/login' })
await app.rateLimiter.reset('ann', { method: 'POST', url: '/login', constraints: { version: '1.0.0' } })
// A policy is counted by its name.
expectError(app.rateLimiter.consume('ann', { max: 5, timeWindow: '1m' }))
expectType<string>(normalizeIP('::1', 64))

app.register(rateLimit, { plans: { free: [{ max: 1, timeWindow: '1s' }], staff: false }, plan: async request => request.ip === '::1' ? false : 'free' })
app.register(rateLimit, { limits: (_request, key) => key === 'staff' ? false : [{ max: 1, timeWindow: '1s' }] })
expectError(app.register(rateLimit, { plans: { free: 5 } }))
app.get('/login', { config: { rateLimit: { max: 5, count: 'failures' } } }, async request => { await request.rateLimit?.settle(0) })
app.get('/rows', { config: { rateLimit: { count: async (_request, reply) => Number(reply.getHeader('x-rows')) } } }, async () => '')
expectError(app.get('/login', { config: { rateLimit: { count: 'errors' } } }, async () => ''))
const hold = await app.rateLimiter.reserve('ann', policy, 100, { ttl: '1m', onExpire: 'release' })
expectType<Hold>(hold)
expectType<boolean>(await hold.settle(5))
expectType<boolean>(await hold.cancel())
