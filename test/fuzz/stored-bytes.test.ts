import { randomBytes } from 'node:crypto'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } from '../../plugins/index.js'
import { startRedis } from '../helpers/index.js'
import { Browser, SECRET } from '../helpers/session/session-app.js'

const ROUNDS = Number(process.env['FUZZ_RUNS'] ?? 40)
const anyOf = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)]!

async function build (t: Test, url: string): Promise<FastifyInstance> {
  const app = Fastify() as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(redis, { url, prefix: 'fuzz' })
  await app.register(health)
  await app.register(rateLimit, { max: 1000, timeWindow: '1 minute' })
  await app.register(session, { secret: SECRET, maxPerUser: 3 })
  await app.register(cache, { ttl: '1m', unkeyed: false })
  await app.register(idempotency)
  await app.register(events)
  await app.register(lock)
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

/** What is there becomes something else, of another type or of other bytes; sometimes nothing. */
async function spoil (client: Redis, key: string): Promise<void> {
  const type = await client.type(key)
  const junk = () => anyOf<string | Buffer>([randomBytes(1 + Math.random() * 60), '', '{', 'null', '[]', '-1', 'NaN', '1e400', '9'.repeat(40), '\u0000', '__proto__'])
  const field = async () => anyOf([...type === 'hash' ? await client.hkeys(key) : [], 'x'])
  await anyOf<() => Promise<unknown>>([
    async () => await client.set(key, junk(), 'PX', 60_000),
    async () => {
      await client.del(key)
      await anyOf([() => client.lpush(key, junk()), () => client.hset(key, 'a', junk()), () => client.zadd(key, 1, junk()), () => client.xadd(key, '*', 'a', junk())])()
      await client.pexpire(key, 60_000)
    },
    async () => { if (type === 'hash') await client.hset(key, await field(), junk()) },
    async () => { if (type === 'hash') await client.hdel(key, await field()) },
    async () => { if (type === 'zset') await client.zadd(key, anyOf([-1, 0, 1e300, Infinity]), junk()) },
    async () => { if (type === 'stream') await client.xadd(key, '*', anyOf(['a', 'key', 'value', 'n']), junk()) },
    async () => { if (type === 'string') await client.setrange(key, Math.floor(Math.random() * 30), junk()) },
    async () => await client.del(key)
  ])()
}

t.test('whatever has become of what lies in Redis, requests are answered, nothing crashes, and keys stay under the prefix', async t => {
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
  for (let round = 0; round < ROUNDS; round++) {
    for (const [method, url] of REQUESTS) {
      const { statusCode, body } = await user.send(method, url)
      // A store that holds something else is a store that cannot be used: that is said, by a code.
      if (statusCode >= 500 && !/"code":"FST_REDIS_SUITE_\w+"/.test(body)) faults.push(`${method} ${url}: ${statusCode} ${body.slice(0, 200)}`)
    }
    const keys = await client.keys('*')
    t.same(keys.filter(key => !key.startsWith('fuzz:')), [], 'no key outside')
    for (const key of keys) if (Math.random() < 0.3) await spoil(client, key)
  }
  t.same([...new Set(faults)], [])
  await client.flushall()
  for (const [method, url] of REQUESTS) t.ok((await user.send(method, url)).statusCode < 500, `${url} is served again`)
  t.same(unhandled, [])
})
