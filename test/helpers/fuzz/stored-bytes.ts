import Fastify, { type FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import type { Test } from 'tap'
import { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } from '../../../plugins/index.js'
import { SECRET, startRedis } from '../index.js'
import { Browser } from '../session/session-app.js'

// The test is about the responses, and not about time on a busy machine.
const timeout = '10s'

/** Numbers from 0 to 1, by the seed: the generator of Numerical Recipes. */
function numbers (seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32
    return state / 2 ** 32
  }
}

async function build (t: Test, url: string): Promise<FastifyInstance> {
  const app = Fastify() as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(redis, { url, prefix: 'fuzz' })
  await app.register(health)
  await app.register(rateLimit, { max: 1000, timeWindow: '1 minute', timeout })
  await app.register(session, { secret: SECRET, maxPerUser: 3, timeout })
  await app.register(cache, { ttl: '1m', unkeyed: false, timeout })
  await app.register(idempotency, { timeout, scope: request => request.ip })
  await app.register(events, { timeout })
  await app.register(lock, { timeout })
  await app.register(metrics)
  app.get('/page', { config: { cache: { tags: ['page'] } } }, async (_, reply) => {
    reply.header('vary', 'accept-language')
    return { page: true }
  })
  app.get('/value', async () => await app.cache.getOrSet('value', () => ({ value: true }), { tags: ['page'] }))
  app.post('/value', async () => { await app.cache.set('value', { value: true }) })
  app.post('/clear', async () => { await app.cache.invalidateTags(['page']) })
  app.post<{ Params: { user: string } }>('/login/:user', async request => { await request.login(request.params.user) })
  app.get('/me', async request => ({ user: request.session.userId, devices: (await app.sessions.list('ann')).length }))
  app.post('/once', { config: { idempotency: true } }, async () => ({ done: true }))
  app.post('/locked', async () => await app.locks.using('section', { wait: 0 }, () => ({ locked: true })))
  app.post('/events', async () => ({ id: await app.events.stream('orders').append({ order: 1 }, { key: 'a' }) }))
  app.get('/groups', async () => await app.events.stats())
  await app.events.stream('orders').consume({ group: 'all', retries: 0, handler: async () => {} })
  return app
}

/** Replaces the value of a key by one of another type or with other bytes; sometimes by nothing. */
async function spoil (client: Redis, key: string, next: () => number): Promise<void> {
  const anyOf = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]!
  const type = await client.type(key)
  const bytes = () => Buffer.from(Array.from({ length: 1 + Math.floor(next() * 60) }, () => next() * 256))
  const junk = () => anyOf<string | Buffer>([bytes(), '', '{', 'null', '[]', '-1', 'NaN', '1e400', '9'.repeat(40), '\u0000', '__proto__'])
  const field = async () => anyOf([...type === 'hash' ? await client.hkeys(key).catch(() => []) : [], 'x'])
  await anyOf<() => Promise<unknown>>([
    async () => await client.set(key, junk(), 'PX', 60_000),
    // Without a wait, because the app writes meanwhile.
    async () => {
      const spoil = client.multi().del(key)
      anyOf([() => spoil.lpush(key, junk()), () => spoil.hset(key, 'a', junk()), () => spoil.zadd(key, 1, junk()), () => spoil.xadd(key, '*', 'a', junk())])()
      await spoil.pexpire(key, 60_000).exec()
    },
    // A value of another type that the app has written meanwhile stays.
    async () => { if (type === 'hash') await client.hset(key, await field(), junk()).catch(ifReplaced) },
    async () => { if (type === 'hash') await client.hdel(key, await field()).catch(ifReplaced) },
    async () => { if (type === 'zset') await client.zadd(key, anyOf([-1, 0, 1e300, Infinity]), junk()).catch(ifReplaced) },
    async () => { if (type === 'stream') await client.xadd(key, '*', anyOf(['a', 'key', 'value', 'n']), junk()).catch(ifReplaced) },
    async () => { if (type === 'string') await client.setrange(key, Math.floor(next() * 30), junk()).catch(ifReplaced) },
    async () => await client.del(key)
  ])()
}

function ifReplaced (error: Error): void {
  if (!error.message.startsWith('WRONGTYPE')) throw error
}

/** Damages the keys of an app with all plugins between its requests, and asserts its responses. */
export async function fuzzStoredBytes (t: Test, rounds: number, seed: number): Promise<void> {
  t.comment(`seed ${seed}`)
  const next = numbers(seed)
  const server = await startRedis()
  const client = server.client()
  const app = await build(t, server.url)
  const unhandled: unknown[] = []
  const note = (error: unknown) => { unhandled.push(error) }
  process.on('unhandledRejection', note)
  t.teardown(() => process.off('unhandledRejection', note))
  const user = new Browser(app, { 'idempotency-key': 'key-1', 'accept-language': 'en' })
  const REQUESTS: Array<['GET' | 'POST', string]> = [['POST', '/login/ann'], ['GET', '/page'], ['GET', '/value'], ['POST', '/value'], ['POST', '/clear'], ['GET', '/me'],
    ['POST', '/once'], ['POST', '/locked'], ['POST', '/events'], ['GET', '/groups'], ['GET', '/health'], ['GET', '/metrics']]
  const faults: string[] = []
  const outside: string[] = []
  for (let round = 0; round < rounds; round++) {
    for (const [method, url] of REQUESTS) {
      const { statusCode, body } = await user.send(method, url)
      // A store with a foreign value is unavailable, which the response reports with a code.
      if (statusCode >= 500 && !/"code":"FST_REDIS_SUITE_\w+"/.test(body)) faults.push(`${method} ${url}: ${statusCode} ${body.slice(0, 200)}`)
    }
    const keys = (await client.keys('*')).sort()
    outside.push(...keys.filter(key => !key.startsWith('fuzz:')))
    for (const key of keys) if (next() < 0.3) await spoil(client, key, next)
  }
  t.same([...new Set(faults)], [])
  t.same(outside, [], 'all keys are under the prefix')
  await client.flushall()
  const refused: string[] = []
  for (const [method, url] of REQUESTS) if ((await user.send(method, url)).statusCode >= 500) refused.push(url)
  t.same(refused, [], 'all is served again')
  t.same(unhandled, [])
}
