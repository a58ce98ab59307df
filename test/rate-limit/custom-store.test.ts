import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { rateLimit, type CustomStoreConstructor, type RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import type { CustomStoreCallback } from '../../plugins/rate-limit/custom-store.js'

const seen: string[] = []

/** Counts forever; a key that ends with `broken` fails, and one that ends with `silent` is never answered. */
class Store {
  readonly #counts = new Map<string, number>()
  incr (key: string, callback: CustomStoreCallback, timeWindow: number) {
    seen.push(key)
    if (key.endsWith('silent')) return
    if (key.endsWith('broken')) return callback(new Error('broken'))
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
    callback(null, { current: this.#counts.get(key) ?? 0, ttl: timeWindow })
  }

  child () { return new Store() }
}

async function build (t: Test, options: RateLimitPluginOptions = {}) {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { max: 2, timeout: 50, store: Store satisfies CustomStoreConstructor, keyGenerator: request => String(request.headers['x-user'] ?? 'x'), ...options })
  app.get('/', async () => 'x')
  app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'x')
  app.get('/group', { config: { rateLimit: { max: 1, groupId: '-g' } } }, async () => 'x')
  return async (count: number, user: string, url = '/') => {
    const statuses = []
    for (let i = 0; i < count; i++) statuses.push((await app.inject({ url, headers: { 'x-user': user } })).statusCode)
    return statuses
  }
}

t.test('a store of one\'s own counts, and is told the keys as @fastify/rate-limit tells them', async t => {
  const statuses = await build(t)
  seen.length = 0
  t.same(await statuses(3, 'ann'), [200, 200, 429])
  t.same(await statuses(2, 'ann', '/own'), [200, 429], 'a route has a child of its own')
  t.same(await statuses(2, 'ann', '/group'), [200, 429])
  t.same(seen, ['ann', 'ann', 'ann', 'ann', 'ann', 'ann-g', 'ann-g'])
})

t.test('a store of one\'s own that fails, or says nothing, is stood in for by the policy on failure', async t => {
  const policies: Array<[RateLimitPluginOptions, number[]]> = [
    [{}, [200, 200, 429]], [{ onStoreError: 'open' }, [200, 200, 200]], [{ skipOnError: true }, [200, 200, 200]], [{ onStoreError: 'closed' }, [503, 503, 503]]
  ]
  for (const [options, expected] of policies) {
    const statuses = await build(t, options)
    for (const user of ['broken', 'silent']) t.same(await statuses(3, user), expected, `${JSON.stringify(options)} ${user}`)
  }
  const statuses = await build(t, { skipOnError: false })
  t.same(await statuses(1, 'broken'), [500], 'the store\'s own error is the answer')
})

t.test('a failure of the store is an event, and what it cannot do at all an error', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { max: 2, store: Store })
  const errors: string[] = []
  app.rateLimiter.on('error', ({ error }) => errors.push(error.message))
  await app.rateLimiter.consume('broken', { name: 'p', max: 5 })
  t.same(errors, ['broken'])
  await t.rejects(app.rateLimiter.consume('k', { name: 'p', max: 5 }, 2), { code: 'FST_REDIS_SUITE_RATE_LIMIT_UNSUPPORTED_BY_STORE' })
  await t.rejects(app.rateLimiter.reset('k'), { code: 'FST_REDIS_SUITE_RATE_LIMIT_UNSUPPORTED_BY_STORE' })
})

t.test('while a store of one\'s own fails, routes keep counts of their own', async t => {
  const statuses = await build(t, { max: 5 })
  t.same(await statuses(3, 'broken'), [200, 200, 200])
  t.same(await statuses(2, 'broken', '/own'), [200, 429])
})
