import { brotliCompressSync } from 'node:zlib'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { Redis as PackageRedis } from '@upstash/redis'
import t, { type Test } from 'tap'
import { cache, events, idempotency, lock, rateLimit, redis, session } from '../../plugins/index.js'
import { portOf, type RedisClient } from '../../plugins/shared/redis/client.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { fromUpstash } from '../../plugins/upstash/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { newPrefix, SECRET, sharedRedis, until } from '../helpers/index.js'
import { startUpstashRest, type UpstashRest } from '../helpers/servers/upstash-rest.js'

interface Setup {
  rest: UpstashRest
  client: ReturnType<typeof fromUpstash>
  tcp: Redis
  prefix: string
}

async function setUp (t: Test): Promise<Setup> {
  const { url } = await sharedRedis()
  const rest = await startUpstashRest(url)
  const tcp = new Redis(url)
  t.teardown(() => tcp.disconnect())
  return { rest, client: fromUpstash({ url: rest.url, token: rest.token }), tcp, prefix: newPrefix() }
}

async function startApp (
  t: Test, client: RedisClient, prefix: string, register: (app: FastifyInstance) => Promise<void>
): Promise<FastifyInstance & { lines: Array<Record<string, unknown>> }> {
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger as never }) as never as FastifyInstance
  t.teardown(() => app.close())
  await app.register(redis, { client, prefix })
  await register(app)
  await app.ready()
  return Object.assign(app, { lines })
}

t.test('bytes arrive in scripts as they are, and return as they are', async t => {
  const { client, tcp, prefix } = await setUp(t)
  const port = portOf(client)
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
  const lua = "redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2] .. #ARGV) return redis.call('GET', KEYS[1])"
  const run = (...args: Array<string | Buffer>) => port.send<Buffer>('eval', [lua, 1, `${prefix}a`, ...args], true)
  for (const [first, second] of [[all, 'é€😀'], ['é', all], [Buffer.from('é'), all], [Buffer.from('plain'), 'ÃÂ'], [all, all]] as const) {
    const expected = Buffer.concat([Buffer.from(first), Buffer.from(second), Buffer.from('2')])
    t.same(await run(first, second), expected)
    t.same(await tcp.getBuffer(`${prefix}a`), expected)
  }
  t.same(await port.send('get', [`${prefix}none`]), null)
  t.same(await port.send('mget', [`${prefix}none`, `${prefix}a`], true), [null, await tcp.getBuffer(`${prefix}a`)])
  await port.send('set', [`${prefix}ok`, 'OK'])
  t.equal(await port.send('get', [`${prefix}ok`]), 'OK')
  t.equal(await port.send('set', [`${prefix}b`, all, 'PX', 10_000]), 'OK')
  t.same(await tcp.getBuffer(`${prefix}b`), all)
  t.ok(await tcp.pttl(`${prefix}b`) > 0)
})

t.test('the commands of a turn are one request', async t => {
  const { client, rest, prefix } = await setUp(t)
  const port = portOf(client)
  const before = rest.requests.length
  const replies = Promise.all(Array.from({ length: 50 }, (_, i) => port.send('incrby', [`${prefix}n`, i])))
  await replies
  t.same(rest.requests.slice(before), [50])
  // A database refuses requests that are too large.
  const value = 'x'.repeat(100_000)
  await Promise.all(Array.from({ length: 12 }, (_, i) => port.send('set', [`${prefix}${i}`, value])))
  t.equal(rest.requests.slice(before + 1).length, 3)
  // The error of one command is not that of the others.
  const [wrong, right] = await Promise.allSettled([port.send('lpush', [`${prefix}1`, 'a']), port.send('get', [`${prefix}1`])])
  t.match(wrong, { status: 'rejected', reason: { name: 'ReplyError', message: /^WRONGTYPE/ } })
  t.match(right, { status: 'fulfilled', value })
})

t.test('instances on HTTP and on TCP share limits, sessions, locks and cached responses', async t => {
  const { client, tcp, prefix } = await setUp(t)
  let made = 0
  const body = brotliCompressSync('é'.repeat(5000))
  const register = async (app: FastifyInstance): Promise<void> => {
    await app.register(rateLimit, { max: 20, timeWindow: '1h', global: false, timeout: '10s' })
    await app.register(session, { secret: SECRET, cookie: { secure: false }, timeout: '10s' })
    await app.register(cache, { ttl: '1h', timeout: '10s' })
    await app.register(lock, { timeout: '10s' })
    await app.register(idempotency, { scope: () => 'caller', timeout: '10s' })
    app.get('/limited', { config: { rateLimit: { max: 20 } } }, async () => 'x')
    app.get('/bytes', { config: { cache: { tags: ['t'] } } }, async (_request, reply) => {
      made++
      return await reply.type('application/octet-stream').send(body)
    })
    app.post('/pay', { config: { idempotency: true } }, async (_request, reply) => await reply.type('application/octet-stream').send(body))
    app.get<{ Params: { name: string } }>('/session/:name', async ({ session, params }) => {
      Object.assign(session, { [params.name]: true })
      return 'x'
    })
    app.get('/session', async ({ session }) => Object.keys(session).filter(name => /^\d+$/.test(name)).length)
  }
  const http = await startApp(t, client, prefix, register)
  const other = await startApp(t, tcp, prefix, register)

  const codes = await Promise.all(Array.from({ length: 60 }, (_, i) => (i % 2 === 0 ? http : other).inject('/limited')))
  t.equal(codes.filter(({ statusCode }) => statusCode === 200).length, 20)

  t.same((await http.inject('/bytes')).rawPayload, body)
  await until('the response is stored', async () => (await other.inject('/bytes')).headers['x-cache'] === 'HIT')
  t.equal(made, 1)
  t.same((await other.inject('/bytes')).rawPayload, body)
  await http.cache.invalidateTags(['t'])
  t.same((await other.inject('/bytes')).rawPayload, body)
  t.equal(made, 2, 'the L1 of an instance on TCP gets the invalidation')
  t.same((await http.inject('/bytes')).rawPayload, body)
  t.equal(made, 2)

  const pay = async (app: FastifyInstance) => (await app.inject({ method: 'POST', url: '/pay', headers: { 'idempotency-key': 'k' } }))
  t.same((await pay(http)).rawPayload, body)
  const replayed = await pay(other)
  t.same(replayed.rawPayload, body)
  t.equal(replayed.headers['idempotency-replayed'], 'true')

  const cookie = String((await http.inject('/session/0')).headers['set-cookie']).split(';')[0] ?? ''
  await Promise.all(Array.from({ length: 39 }, (_, i) => (i % 2 === 0 ? http : other).inject({ url: `/session/${i + 1}`, headers: { cookie } })))
  t.equal((await other.inject({ url: '/session', headers: { cookie } })).body, '40', 'no change of a session is lost')

  let inside = 0
  await Promise.all(Array.from({ length: 12 }, (_, i) => (i % 2 === 0 ? http : other).locks.using('a', { wait: '30s' }, async () => {
    inside++
    await Promise.resolve()
    if (inside !== 1) t.fail('two holders at once')
    inside--
  })))
})

t.test('a failure costs a request its deadline, names no command, and ends by itself', async t => {
  const { client, rest, prefix } = await setUp(t)
  const app = await startApp(t, client, prefix, async app => {
    await app.register(rateLimit, { max: 1000, timeWindow: '1h', onStoreError: 'closed', timeout: 500 })
    await app.register(session, { secret: SECRET, cookie: { secure: false }, timeout: 500 })
    app.get('/', async ({ session }) => { Object.assign(session, { card: 'a-card-number' }); return 'x' })
  })
  const status = async (): Promise<number> => (await app.inject('/')).statusCode
  const isBack = async (): Promise<void> => await until('Redis is used again', async () => await status() === 200)
  t.equal(await status(), 200)
  const faults: Record<string, [begin: () => unknown, end: () => unknown]> = {
    killed: [() => rest.kill(), () => rest.restart()],
    hung: [() => rest.pause(), () => rest.resume()],
    'a page of a proxy': [() => rest.replyWith({ status: 502, body: '<h1>Bad Gateway</h1>' }), () => rest.replyWith(undefined)],
    'no JSON': [() => rest.replyWith({ status: 200, body: '{"result":' }), () => rest.replyWith(undefined)],
    'too few results': [() => rest.replyWith({ status: 200, body: '[]' }), () => rest.replyWith(undefined)],
    'an internal error': [() => rest.replyWith({ status: 500, body: '{"error":"internal"}' }), () => rest.replyWith(undefined)],
    'used up': [() => rest.replyWith({ status: 429, body: '{"error":"ERR max daily request limit exceeded"}' }), () => rest.replyWith(undefined)]
  }
  for (const [name, [begin, end]] of Object.entries(faults)) {
    await begin()
    for (let i = 0; i < 8; i++) t.equal(await status(), 503, name)
    await end()
    await isBack()
  }
  t.notMatch(JSON.stringify(app.lines), /a-card-number|a-secret-token|evalsha/i)
  t.ok(app.lines.some(({ circuit, reason }) => circuit === 'open' && reason === 'the reply is no JSON'))
})

t.test('the boot reports a database that is not there, or a token that is refused', async t => {
  const { rest, prefix } = await setUp(t)
  const boot = (client: RedisClient) => startApp(t, client, prefix, async () => {})
  await t.rejects(boot(fromUpstash({ url: rest.url, token: 'another' })), { code: 'FST_REDIS_SUITE_REDIS_CONNECT_AUTH', message: /^(?!.*another)/ })
  await rest.kill()
  await t.rejects(boot(fromUpstash({ url: rest.url, token: rest.token })), { code: 'FST_REDIS_SUITE_REDIS_CONNECT_REFUSED' })
  await rest.restart()
  rest.pause()
  await t.rejects(startApp(t, fromUpstash({ url: rest.url, token: rest.token }), prefix, async () => {}), { code: 'FST_REDIS_SUITE_REDIS_CONNECT_TIMEOUT' })
})

t.test('a request whose connection breaks is sent again, and the plugins know it', async t => {
  const { rest, client } = await setUp(t)
  const port = portOf(client)
  const events: string[] = []
  port.on('close', () => { events.push('close') })
  port.on('ready', () => { events.push('ready') })
  t.equal(await port.send('ping', []), 'PONG')
  rest.breakNext()
  t.equal(await port.send('incr', [newPrefix()]), 1)
  t.same(events, ['close', 'ready'])
})

t.test('a request that gets no reply is aborted', async t => {
  const { rest } = await setUp(t)
  rest.pause()
  const client = fromUpstash({ url: rest.url, token: rest.token, requestTimeout: 50 })
  await t.rejects(portOf(client).send('ping', []), { name: 'TimeoutError' })
})

t.test('what needs a subscription is refused at registration, with what to do', async t => {
  const { client, rest } = await setUp(t)
  const refuses = async (register: (app: FastifyInstance) => unknown, error: { code: string, message: RegExp }): Promise<void> => {
    await t.rejects(async () => { await register(Fastify() as never) }, error)
  }
  await refuses(app => app.register(cache, { redis: client, l1: 1024 ** 2 }), {
    code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION',
    message: /option "l1" must be false or \{ maxAge: '1s' \} over HTTP.*but was a size, without maxAge/
  })
  await refuses(app => app.register(events, { redis: client }), {
    code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION', message: /option "subscriptions" must be false over HTTP/
  })
  await refuses(app => app.register(cache, { redis: new PackageRedis({ url: rest.url, token: rest.token }) as never }), {
    code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message: /make it by fromUpstash\(\{ url, token \}\)/
  })
  for (const l1 of [{}, { maxAge: 0 }, { maxAge: '1s', size: 5 }, { maxAge: '1s', maxSize: 5 }, 5, true]) {
    await refuses(app => app.register(cache, { redis: client, l1: l1 as never }), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message: /option "l1" must be/ })
  }
  const secret = 'a-password'
  for (const options of [{ url: `rediss://:${secret}@example.com:6379`, token: 'a' }, { url: 'https://example.com', token: '' }, { url: undefined, token: 'a' }, undefined, { url: 'https://example.com', token: `${secret} ` }]) {
    t.throws(() => fromUpstash(options as never), { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION', message: /^(?!.*a-password)/ })
  }
})

t.test('an entry in an L1 with maxAge is served for that time, without Redis and after another instance has invalidated it', async t => {
  const { client, tcp, rest, prefix } = await setUp(t)
  const clock = createTestClock()
  let made = 0
  const start = (redisClient: RedisClient, l1?: { maxAge: string }) => startApp(t, redisClient, prefix, async app => {
    await app.register(cache, { ttl: '1h', timeout: '10s', clock, ...l1 !== undefined && { l1 } })
  })
  for (const own of [client, tcp]) {
    const app = await start(own, { maxAge: '2s' })
    const other = await start(tcp)
    const key = newPrefix()
    const read = async (): Promise<unknown> => await app.cache.getOrSet(key, async () => ++made, { tags: ['t'] })
    const first = await read()
    await until('the value is stored', async () => await other.cache.get(key) === first)
    t.equal(await read(), first)
    const before = rest.requests.length
    t.equal(await read(), first)
    t.equal(rest.requests.length, before, 'no request')
    await other.cache.invalidateTags(['t'])
    await clock.advance(1999)
    t.equal(await read(), first)
    await clock.advance(2)
    t.not(await read(), first)
    const own2 = await read()
    await app.cache.invalidateTags(['t'])
    t.not(await read(), own2, 'its own invalidation holds at once')
  }
})
