import fc from 'fast-check'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } from '../../../plugins/index.js'
import { SECRET, startRedis, until } from '../index.js'

const PREFIX = 'shop'
// The test is about the form of keys, and not about time on a busy machine.
const timeout = '10s'
/** `{prefix}:{plugin}:{what}:{id}` with known plugins and kinds; an id has no characters that patterns or a Cluster interpret. */
const KEY = /^shop:(?:cache:path:[\w.@:/-]*$|(?:cache:(?:entry|tag|claim|behind)|session:(?:data|user)|rate-limit:(?:log|counter|gcra|refused|settled)|lock:(?:held|free|line|seen|fence|permits|weights|waiters|waiting)|idempotency:key|events:stream):[\w.@:~#-]*(?:\{[\w.@:~#-]+\})?[\w.@:~#-]*$)/
/** Accepted work that is not done yet has no TTL: it is removed when the last of it is done (docs/plugins/data-cache.md). */
const WITHOUT_TTL = /^shop:cache:behind:/

const hostile = fc.oneof(fc.string({ unit: 'binary', minLength: 1, maxLength: 80 }),
  fc.constantFrom('*', '?', '[a]', '{', '}', '{}', '{a}', 'a b', '\n', '\0', ':', '::', 'shop:cache:entry:x', '~', '#', 'é', '\ud800', 'x'.repeat(200), '../..', '127.0.0.1', '2001:db8::1'))

async function build (url: string) {
  const app = Fastify()
  await app.register(redis, { url, prefix: PREFIX })
  await app.register(rateLimit, { timeout, max: 1000, global: false, keyGenerator: request => String(request.headers['x-user']) })
  await app.register(session, { secret: SECRET, timeout, cookie: { secure: false } })
  await app.register(cache, { timeout })
  await app.register(events, { timeout })
  await app.register(lock, { timeout })
  await app.register(idempotency, { timeout, scope: request => request.ip })
  for (const plugin of [health, metrics]) await app.register(plugin)
  const user = (request: { headers: Record<string, unknown> }) => Buffer.from(String(request.headers['x-user']), 'base64url').toString()
  app.get('/cached', { config: { cache: { ttl: '1m', tags: request => [user(request)], vary: ['x-user'] } } }, async () => ({ at: 1 }))
  app.get('/limited', { config: { rateLimit: { max: 2, ban: 1 } } }, async () => 'ok')
  app.post('/login', async request => await request.login(user(request)))
  app.post('/paid', { config: { idempotency: true } }, async () => ({ paid: true }))
  return app
}

/**
  * Calls all plugins with odd ids, and asserts the form and the TTL of their keys.
  *
  * @param seed - the seed of the ids; by default a new one, which a failure prints
 */
export async function fuzzKeys (t: Test, runs: number, seed?: number): Promise<void> {
  const server = await startRedis()
  const app = await build(server.url)
  t.teardown(() => app.close())
  const behind = app.cache.writeBehind<number>('orders', { write: () => { throw new Error('no') }, retries: 0, flushEvery: 1 })
  const stream = app.events.stream<string>('orders', { partitions: 2 })
  await stream.consume({ group: 'mail', handler: ({ data }) => { if (data.length % 2 === 0) throw new Error('no') }, retries: 0 })

  await fc.assert(fc.asyncProperty(hostile, async id => {
    const headers = { 'x-user': Buffer.from(id).toString('base64url') }
    await Promise.all([
      app.cache.set(id, 1, { tags: [`t${id}`] }),
      app.cache.getOrSet(`made ${id}`, async () => id, { tags: ['all', `t${id}`] }),
      behind.add(id, 1),
      stream.append(id, { key: id }),
      app.locks.using([id, `other ${id}`], { ttl: '1m' }, async () => id),
      ...(['sliding-log', 'sliding-counter', 'gcra'] as const).map(algorithm => app.rateLimiter.consume(id, { name: `by ${algorithm}`, max: 2, timeWindow: '1 minute', algorithm, ban: 1 })),
      app.inject({ url: `/cached?q=${headers['x-user']}`, headers }),
      app.inject({ url: '/limited', headers }).then(async () => await app.inject({ url: '/limited', headers })),
      app.inject({ method: 'POST', url: '/login', headers }),
      app.inject({ method: 'POST', url: '/paid', headers: { ...headers, 'idempotency-key': `"${headers['x-user'].slice(0, 40)}"` } })
    ])
    await app.cache.invalidateTags([`t${id}`])
  }), { numRuns: runs, ...seed !== undefined && { seed } })
  await until('what fails is given up', async () => (await behind.stats()).backlog === 0)

  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  const keys = await client.keys('*')
  const kinds = new Map<string, number>()
  t.same(keys.filter(key => !KEY.test(key)), [], 'keys of another form')
  const immortal: string[] = []
  for (const key of keys) {
    if (!WITHOUT_TTL.test(key) && await client.pttl(key) === -1) immortal.push(key)
    const kind = key.split(':').slice(1, 3).join(':')
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
  }
  t.comment([...kinds].map(([kind, count]) => `${kind} ${count}`).join(', '))
  t.same(immortal, [], 'keys without a TTL')
  const expected = ['cache:entry', 'cache:tag', 'cache:behind', 'session:data', 'session:user', 'rate-limit:log', 'rate-limit:counter', 'rate-limit:gcra', 'rate-limit:refused', 'lock:', 'idempotency:key', 'events:stream']
  t.same(expected.filter(kind => ![...kinds.keys()].some(written => written.startsWith(kind))), [], 'kinds of keys that were not written')
}
