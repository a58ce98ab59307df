import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { Redis as Iovalkey } from 'iovalkey'
import { createClient, createClientPool, createCluster } from 'redis'
import t, { type Test } from 'tap'
import { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } from '../../plugins/index.js'
import { callRedis, circuitOf, defineScript, runScript, type RedisClient, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { isUpstash } from '../../plugins/shared/redis/clients/upstash.js'
import { TYPESCRIPT } from '../helpers/compiled/exec-argv.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { newPrefix, SECRET, sharedCluster, sharedRedis, startRedis, until } from '../helpers/index.js'
import { lacking } from '../helpers/servers/commands.js'
import { startUpstashRest } from '../helpers/servers/upstash-rest.js'
import { fromUpstash } from '../../plugins/upstash/index.js'

const noSharding = await lacking('ssubscribe')

type Open = (t: Test) => Promise<RedisClient>

/** Clients as their users make them. Their types are checked here as well. */
const CLIENTS: Record<string, Open> = {
  ioredis: async t => {
    const client = new Redis((await sharedRedis()).url)
    t.teardown(() => client.disconnect())
    return client
  },
  iovalkey: async t => {
    const client = new Iovalkey((await sharedRedis()).url)
    t.teardown(() => client.disconnect())
    return client
  },
  'node-redis, RESP 3': async t => {
    const client = createClient({ url: (await sharedRedis()).url })
    t.teardown(() => client.destroy())
    await client.connect()
    return client
  },
  'node-redis, RESP 2': async t => {
    const client = createClient({ url: (await sharedRedis()).url, RESP: 2 })
    t.teardown(() => client.destroy())
    await client.connect()
    return client
  },
  'node-redis, a Cluster': async t => {
    const { startupNodes } = await sharedCluster()
    const client = createCluster({ rootNodes: startupNodes.map(({ host, port }) => ({ url: `redis://${host}:${port}` })) })
    t.teardown(() => client.destroy())
    await client.connect()
    return client
  },
  Upstash: async () => {
    const { url, token } = await startUpstashRest((await sharedRedis()).url)
    return fromUpstash({ url, token })
  }
}

async function build (t: Test, how: 'option' | 'decorator', client: RedisClient): Promise<FastifyInstance> {
  const app = Fastify({ loggerInstance: collectLog().logger as never }) as never as FastifyInstance
  t.teardown(() => app.close())
  const prefix = newPrefix()
  await app.register(redis, { client, prefix })
  const option = how === 'option' ? { redis: client, timeout: '10s' } : { timeout: '10s' }
  await app.register(session, { ...option, secret: SECRET, cookie: { secure: false } })
  await app.register(rateLimit, { ...option, max: 3, timeWindow: '1h', global: false })
  await app.register(cache, option)
  await app.register(idempotency, { ...option, scope: () => 'caller' })
  await app.register(lock, option)
  await app.register(events, { ...option, subscriptions: !isUpstash(client) })
  await app.register(health, how === 'option' ? { redis: client } : {})
  await app.register(metrics)
  let made = 0
  app.get('/limited', { config: { rateLimit: { max: 3 } } }, async () => 'x')
  app.get('/cached', { config: { cache: { ttl: '1h', tags: ['t'] } } }, async () => String(++made))
  app.post('/once', { config: { idempotency: true } }, async () => String(++made))
  app.get('/visits', async request => {
    const visits = (Number(Reflect.get(request.session, 'visits')) || 0) + 1
    Object.assign(request.session, { visits })
    return visits
  })
  await app.ready()
  return app
}

/** Runs what a plugin promises. Returns how it differs with this client; '' for not at all. */
type Check = (t: Test, app: FastifyInstance, client: RedisClient) => Promise<string>

const CHECKS: Record<string, Check> = {
  'rate-limit': async (t, app) => {
    const limited = []
    for (let i = 0; i < 4; i++) limited.push((await app.inject('/limited')).statusCode)
    t.same(limited, [200, 200, 200, 429])
    return ''
  },
  'cache, responses': async (t, app, client) => {
    const cached = async () => (await app.inject('/cached')).body
    const first = await cached()
    await until('the response is stored', async () => (await cached()) === first)
    const isInL1 = async () => await cached() === first && app.cache.stats().l1Hits > 0
    if (!isUpstash(client)) await until('L1 serves it', isInL1)
    const hasL1 = await isInL1()
    const before = await cached()
    await app.cache.invalidateTags(['t'])
    t.not(await cached(), before)
    t.not(await cached(), first)
    return hasL1 ? '' : 'no L1 by default'
  },
  'cache, data': async (t, app) => {
    t.same(await app.cache.getOrSet('k', async () => ({ a: 'é' }), { ttl: '1h' }), { a: 'é' })
    // It is stored in the background, where the nodes of a Cluster have no common order.
    await until('the value is stored', async () => await app.cache.get('k') !== undefined)
    t.same(await app.cache.get('k'), { a: 'é' })
    await app.cache.set('l', { b: '€' })
    t.same(await app.cache.get('l'), { b: '€' })
    t.ok(await app.cache.invalidatePattern('k*') >= 0)
    return ''
  },
  session: async (t, app) => {
    const first = await app.inject('/visits')
    const cookie = String(first.headers['set-cookie']).split(';')[0] ?? ''
    const again = async () => (await app.inject({ url: '/visits', headers: { cookie } })).body
    t.same([first.body, await again(), await again()], ['1', '2', '3'])
    return ''
  },
  idempotency: async (t, app) => {
    const once = async () => (await app.inject({ method: 'POST', url: '/once', headers: { 'idempotency-key': 'k' } })).body
    t.equal(await once(), await once())
    return ''
  },
  lock: async (t, app) => {
    t.equal(await app.locks.using('a', async () => await app.locks.acquire('a', { wait: 0 }).catch(({ code }) => code)), 'FST_REDIS_SUITE_LOCK_LOCKED')
    const held = await app.locks.acquire('b')
    const waiter = app.locks.acquire('b', { wait: '10s' })
    t.equal(await held.release(), true)
    t.equal(await (await waiter).release(), true)
    return ''
  },
  'events, pub/sub': async (t, app, client) => {
    const received: unknown[] = []
    try {
      await app.events.subscribe('orders:*', event => { received.push(event) })
    } catch (error) {
      if (noSharding && portOf(client).topology !== undefined) {
        t.match(error, { code: 'FST_REDIS_SUITE_EVENTS_REFUSED', statusCode: 503 })
        return 'none'
      }
      t.match(error, { code: 'FST_REDIS_SUITE_EVENTS_SUBSCRIPTIONS_OFF' })
      await app.events.publish('orders:1', { id: 1 })
      return '`publish` only'
    }
    await app.events.publish('orders:1', { id: 1 })
    await until('the event is received', () => received.length === 1)
    return ''
  },
  'events, streams': async (_t, app) => {
    const mails = app.events.stream('mails')
    const handled: unknown[] = []
    await mails.consume({ group: 'senders', handler: async ({ data }) => { handled.push(data) } })
    await mails.append({ to: 'ann' })
    await until('the message is handled', () => handled.length === 1)
    return ''
  },
  health: async (t, app) => {
    const response = await app.inject('/health')
    t.equal(response.statusCode, 200)
    t.match(response.json(), { checks: { 'redis:circuit': [{ observedValue: 'closed' }], 'redis:role': [{ observedValue: 'master' }] } })
    return ''
  },
  metrics: async (t, app) => {
    const { body } = await app.inject('/metrics')
    t.match(body, /redis_up\{client="default"\} 1/)
    t.match(body, /redis_command_duration_seconds_count\{client="default",command="evalsha"\} [1-9]/)
    return ''
  },
  'callRedis, runScript': async (t, app, client) => {
    const script = defineScript({ lua: "return redis.call('INCRBY', counter, by)", keys: ['counter'], args: { by: 'number' } })
    t.equal(await runScript(app, script, { counter: `${newPrefix()}n` }, { by: 2 }), 2)
    t.equal(await callRedis(app, async (redis: object) => redis === client), true)
    t.equal(circuitOf(client)?.state, 'closed')
    return ''
  }
}

/** The results of the checks, by plugin and client. */
const seen = new Map(Object.keys(CHECKS).map(plugin => [plugin, new Map<string, string>()]))

for (const [name, open] of Object.entries(CLIENTS)) {
  for (const how of ['option', 'decorator'] as const) {
    t.test(`${name}, as ${how}: each plugin does its work`, async t => {
      const client = await open(t)
      const app = await build(t, how, client)
      for (const [plugin, check] of Object.entries(CHECKS)) {
        await t.test(plugin, async t => { seen.get(plugin)?.set(name, await check(t, app, client)) })
      }
    })
  }
}

t.test('the table of docs/clients.md has what was seen', { skip: noSharding }, async t => {
  const row = (cells: string[]) => `| ${cells.join(' | ')} |`
  const table = [
    row(['plugin', ...Object.keys(CLIENTS)]),
    row(['---', ...Object.keys(CLIENTS).map(() => '---')]),
    ...[...seen].map(([plugin, cells]) => row([plugin, ...Object.keys(CLIENTS).map(name => cells.get(name) || 'all')]))
  ].join('\n')
  const file = new URL('../../docs/clients.md', import.meta.url)
  const page = readFileSync(file, 'utf8')
  const written = page.replace(/(<!-- seen by the tests -->\n\n)[^]*?(\n\n<!-- end -->)/, (_, start: string, end: string) => start + table + end)
  if (process.env['WRITE_DOCS'] === 'true') writeFileSync(file, written)
  else t.equal(page, written, 'run it with WRITE_DOCS=true')
})

t.test('a server that is killed costs each request of node-redis at most its deadline, and is used again when it is back', async t => {
  const server = await startRedis()
  const client = createClient({ url: server.url })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => client.destroy())
  const app = Fastify({ loggerInstance: collectLog().logger as never }) as never as FastifyInstance
  t.teardown(() => app.close())
  await app.register(rateLimit, { redis: client, max: 100, timeWindow: '1h', onStoreError: 'closed' })
  app.get('/', async () => 'x')
  t.equal((await app.inject('/')).statusCode, 200)
  await server.kill()
  for (let i = 0; i < 20; i++) t.equal((await app.inject('/')).statusCode, 503)
  await server.restart()
  await until('Redis is used again', async () => (await app.inject('/')).statusCode === 200)
  server.pause()
  for (let i = 0; i < 20; i++) t.equal((await app.inject('/')).statusCode, 503)
  server.resume()
  await until('Redis is used again', async () => (await app.inject('/')).statusCode === 200)
  const get = async (redis: typeof client) => await redis.get('none')
  t.equal(await callRedis(app, get, { client }), null)
  // A refusal is an unavailable store as well, and an error of the app's own stays what it is.
  await server.client().config('SET', 'min-replicas-to-write', '1')
  await t.rejects(callRedis(app, async (redis: typeof client) => await redis.set('a', '1'), { client }), { code: 'FST_REDIS_SUITE_REDIS_STORE_UNAVAILABLE', cause: { message: /NOREPLICAS/ } })
  await t.rejects(callRedis(app, async (redis: typeof client) => await redis.hGet('a', 'b').then(() => { throw new Error('own') }), { client }), { message: 'own' })
  await server.kill()
  await t.rejects(callRedis(app, get, { client, timeout: '5s' }), { code: 'FST_REDIS_SUITE_REDIS_STORE_UNAVAILABLE' })
})

t.test('a client that cannot be used is refused with what to do', async t => {
  const { url } = await sharedRedis()
  const subscriber = new Redis(url)
  t.teardown(() => subscriber.disconnect())
  await subscriber.subscribe('a')
  const closed = createClient({ url })
  await closed.connect()
  await closed.close()
  const connecting = createClient({ url }).connect()
  t.teardown(async () => { (await connecting).destroy() })
  const subscribers = await Promise.all([2, 3].map(async RESP => {
    const client = createClient({ url, RESP: RESP as 2 | 3 })
    await client.connect()
    t.teardown(() => client.destroy())
    await client.subscribe('a', () => {})
    return client
  }))
  const pool = createClientPool({ url })
  const wrong: Array<[unknown, RegExp]> = [
    [createClient({ url }), /option "redis" must be a client that is open: await client\.connect\(\) first, but was a client that is not connected/],
    [closed, /await client\.connect\(\) first/],
    [Object.assign(Object.create(null), { isOpen: true, sendCommand () {}, duplicate () {} }), /a client of node-redis 5 or newer: npm install redis@latest, but was a client of version 4 or older/],
    [connecting, /but was a promise: await it/],
    [subscriber, /a client that sends commands.*but was a client that has subscribed to channels/],
    [subscribers[0], /subscribe with client\.duplicate\(\), but was a client that has subscribed to channels/],
    [pool, /but was a pool of createClientPool.*: use createClient/],
    [{}, /a client of ioredis or iovalkey \(Redis or Cluster\), of node-redis \(createClient, createCluster or createSentinel\) or of fromUpstash, or false/],
    [url, /a client of ioredis or iovalkey/]
  ]
  for (const [client, message] of wrong) {
    await t.rejects(async () => { await Fastify().register(cache, { redis: client as never }) }, { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message })
  }
  const app = Fastify()
  t.teardown(() => app.close())
  await t.resolves(Promise.resolve(app.register(rateLimit, { redis: subscribers[1] as never, max: 1 })), 'RESP 3 has subscriptions beside commands')
})

t.test('fastify.redis and the option client that hold no client are refused with what to do', async t => {
  const { url } = await sharedRedis()
  const connecting = createClient({ url }).connect()
  t.teardown(async () => { (await connecting).destroy() })
  for (const [foreign, message] of [[createClientPool({ url }), /a pool of createClientPool/], [connecting, /but was a promise: await it/]] as const) {
    const app = Fastify().decorate('redis', foreign as never)
    await t.rejects(async () => { await app.register(rateLimit, { max: 1 }) }, { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION', message })
    await t.rejects(async () => { await Fastify().register(redis, { client: foreign as never }) }, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION', message })
  }
})

t.test('driver: node-redis makes a client, reports a server that is not there, and closes with the app', async t => {
  const { url } = await sharedRedis()
  const app = Fastify()
  await app.register(redis, { driver: 'node-redis', url, clientOptions: { clientInfoTag: 'app' } })
  const client = app.redis as never as ReturnType<typeof createClient>
  t.equal(await client.ping(), 'PONG')
  await app.close()
  t.equal(client.isOpen, false)
  await t.rejects(async () => { await Fastify().register(redis, { driver: 'node-redis', url: 'redis://127.0.0.1:1', connectTimeout: '1s' }) }, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_REFUSED', message: /127\.0\.0\.1:1/ })
  const refused: RedisPluginOptions[] = [{ driver: 'other' as never }, { driver: 'node-redis', keyPrefix: 'a' }, { driver: 'node-redis', cluster: { nodes: ['127.0.0.1:1'], options: {} } }]
  for (const options of refused) await t.rejects(async () => { await Fastify().register(redis, options) }, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION' }, Object.keys(options).join())
  const secret = 'a-password'
  const withTls = Fastify().register(redis, { driver: 'node-redis', url: `redis://:${secret}@127.0.0.1:1`, tls: {}, connectTimeout: '1s' })
  await t.rejects(async () => { await withTls }, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_REFUSED', message: /^(?!.*a-password)/ })
})

t.test('importing the plugins loads no client library', async t => {
  const plugins = new URL('../../plugins/', import.meta.url)
  const code = `
    import { createRequire } from 'node:module'
    await import('${plugins.href}index.ts')
    for (const name of ['redis', 'cache', 'session', 'rate-limit', 'lock', 'events', 'idempotency', 'health', 'metrics']) await import(\`${plugins.href}\${name}/index.ts\`)
    console.log(Object.keys(createRequire('${plugins.pathname}').cache).filter(file => /node_modules\\/(ioredis|iovalkey|redis|@redis|@upstash)\\//.test(file)).join())
    console.log('loaded')
  `
  const { stdout } = await promisify(execFile)(process.execPath, [...TYPESCRIPT, '--input-type=module', '-e', code])
  t.equal(stdout.trim(), 'loaded')
})

t.test('options that would have no effect, and a URL in place of a client, are refused without a password', async t => {
  const { url } = await sharedRedis()
  const invalid = (plugin: string, message: RegExp) => ({ code: `FST_REDIS_SUITE_${plugin}_INVALID_OPTION`, message })
  for (const options of [{ url, clientOptions: {} }, { driver: 'ioredis', url, clientOptions: {} }, { client: {}, clientOptions: {} }] as never[]) {
    await t.rejects(async () => { await Fastify().register(redis, options) }, invalid('REDIS', /option "clientOptions" must be left out/), Object.keys(options).join())
  }
  const secret = 'redis://bob:hunter2@127.0.0.1:1'
  for (const [plugin, register] of [['REDIS', async () => { await Fastify().register(redis, { client: secret as never }) }], ['LOCK', async () => { await Fastify().register(lock, { redis: secret as never }) }]] as const) {
    const error = await register().then(() => undefined, (error: unknown) => error as Error)
    t.match(error, invalid(plugin, /was a string: register the plugin redis with the option url/))
    t.notMatch(`${error?.stack}`, /hunter2/)
  }
})
