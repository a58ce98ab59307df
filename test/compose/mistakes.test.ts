import cluster from 'node:cluster'
import fastifyCookie from '@fastify/cookie'
import fastifySession from '@fastify/session'
import underPressure from '@fastify/under-pressure'
import Fastify, { type FastifyInstance, type InjectOptions } from 'fastify'
import { Redis } from 'ioredis'
import mercurius from 'mercurius'
import t, { type Test } from 'tap'
import * as suite from '../../plugins/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { sharedRedis } from '../helpers/index.js'

const { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } = suite
const SECRET = 'a secret of at least thirty-two characters'

/** A mistake; the code of its error, without the common prefix; and the texts that the message must contain. */
type Mistake = [what: string, doIt: (app: FastifyInstance) => unknown, code: string, ...names: string[]]

const registered = async (app: FastifyInstance, ...plugins: Array<[plugin: unknown, options?: object]>) => {
  for (const [plugin, options] of plugins) await app.register(plugin as typeof lock, { ...options })
}

/** Calls a decorator's method as a program in JavaScript may, without a compiler that checks the arguments. */
async function call (target: object, method: string, ...args: unknown[]): Promise<unknown> {
  return await Reflect.apply(Reflect.get(target, method), target, args)
}

const mistakes: Mistake[] = [
  ['an option is misspelt', app => registered(app, [cache, { tll: '5m' }]), 'CACHE_INVALID_OPTION', 'unknown option "tll"; did you mean "ttl"? allowed: one of ttl'],
  ...([[cache, 'jiter', 'jitter', {}], [events, 'timeOut', 'timeout', {}], [health, 'prefx', 'prefix', {}], [health, 'loglevel', 'logLevel', {}], [idempotency, 'maxkeys', 'maxKeys', {}], [lock, 'clockdrift', 'clockDrift', {}],
    [metrics, 'prefix_', 'prefix', {}], [metrics, 'logLevl', 'logLevel', {}], [rateLimit, 'maximum', 'max', {}], [session, 'secrets', 'secret', { secret: SECRET }]] as const).map(([plugin, given, meant, needed]): Mistake => {
    const name = /([\w-]+)$/.exec(Reflect.get(plugin, Symbol.for('fastify.display-name')) as string)?.[1]?.toUpperCase().replace('-', '_')
    return [`an option of ${name} is misspelt as ${given}`, app => registered(app, [plugin, { [given]: 1, ...needed }]), `${name}_INVALID_OPTION`, `unknown option "${given}"; did you mean "${meant}"?`, meant]
  }),
  ['an option has the name that express-rate-limit has for it', app => registered(app, [rateLimit, { windowMs: 1 }]), 'RATE_LIMIT_INVALID_OPTION', 'unknown option "windowMs"; did you mean "timeWindow"?'],
  ['an option of exponentialBackoff is misspelt', app => registered(app, [rateLimit, { exponentialBackoff: { bse: 1 } }]), 'RATE_LIMIT_INVALID_OPTION', 'unknown option "bse"; did you mean "base"?'],
  ['an option of paths is misspelt', app => registered(app, [health, { paths: { redy: '/r' } }]), 'HEALTH_INVALID_OPTION', 'unknown option "redy"; did you mean "ready"?'],
  ['an option of a key is misspelt', app => registered(app, [cache, { key: { hosts: true } }]), 'CACHE_INVALID_OPTION', 'unknown option "hosts"; did you mean "host"?'],
  ['a header that is not sent is turned off', app => registered(app, [rateLimit, { addHeaders: { 'x-ratelimit-limits': false } }]), 'RATE_LIMIT_INVALID_OPTION', 'unknown header "x-ratelimit-limits"; did you mean "x-ratelimit-limit"?'],
  ['a list of query parameters is misspelt', app => registered(app, [cache, { key: { query: { includes: ['a'] } } }]), 'CACHE_INVALID_OPTION', 'unknown option "includes"; did you mean "include"?'],
  ['a number is given as text', app => registered(app, [rateLimit, { max: '5' }]), 'RATE_LIMIT_INVALID_OPTION', 'option "max" must be', 'but was the string "5"', 'a whole number'],
  ['a range of addresses is none', app => registered(app, [rateLimit, { denyList: ['192.0.2.1', '10.0.0.0/33'] }]), 'RATE_LIMIT_INVALID_OPTION', 'option "denyList[1]" must be', 'but was the string "10.0.0.0/33"', '10.0.0.0/8'],
  ['query parameters are a list', app => registered(app, [cache, { key: { query: ['page'] } }]), 'CACHE_INVALID_OPTION', 'option "query" must be', 'but was an array', '{ include'],
  ['a secret is too short', app => registered(app, [session, { secret: 'hunter2' }]), 'SESSION_INVALID_OPTION', 'option "secret" must be', 'but was shorter than 32 characters', 'openssl rand'],
  ['a duration is none', app => registered(app, [cache, { ttl: '5 apples' }]), 'CACHE_INVALID_OPTION', '"ttl"', '"5 apples"', "'30s'"],
  ['a maximum is NaN', app => registered(app, [rateLimit, { max: NaN }]), 'RATE_LIMIT_INVALID_OPTION', '"max"', 'NaN', 'whole number'],
  ['there is no secret', app => registered(app, [session]), 'SESSION_INVALID_OPTION', '"secret"', 'undefined', '32 characters'],
  ['a plugin is given the URL of a Redis', app => registered(app, [lock, { redis: 'redis://localhost' }]), 'LOCK_INVALID_OPTION', '"redis"', 'a string: register the plugin redis with the option url', 'a client of ioredis'],
  ['the URL lacks its scheme', app => registered(app, [redis, { url: 'ann:hunter2@localhost:6379' }]), 'REDIS_INVALID_OPTION', '"url"', 'redis://host:port'],
  ['the URL has another scheme', app => registered(app, [redis, { url: 'http://ann:hunter2@localhost:6379' }]), 'REDIS_INVALID_OPTION', 'a string that begins with http://', 'must be redis://host:port'],
  ['url and host are given both', app => registered(app, [redis, { url: 'redis://localhost', host: 'localhost' }]), 'REDIS_INVALID_OPTION', 'option "url + host" must be only one of', 'only one'],
  ['a Cluster is a list', app => registered(app, [redis, { cluster: [{ host: 'localhost', port: 7000 }] }]), 'REDIS_INVALID_OPTION', 'option "cluster.nodes" must be', 'but was undefined', 'a list of { host, port }'],
  ['a client is none', app => registered(app, [redis, { client: {} }]), 'REDIS_INVALID_OPTION', '"client"', 'an object', 'a client of ioredis'],
  ['a client is null', app => registered(app, [redis, { client: null }]), 'REDIS_INVALID_OPTION', '"client"', 'null', 'a client of ioredis'],

  ['cache twice', app => registered(app, [cache], [cache]), 'CACHE_ALREADY_REGISTERED', 'fastify.cache'],
  ['cache beside one that has its decorator', async app => { app.decorate<unknown>('cache', {}); await registered(app, [cache]) }, 'CACHE_ALREADY_REGISTERED', 'fastify.cache', 'another one'],
  ['session twice', app => registered(app, [session, { secret: SECRET }], [session, { secret: SECRET }]), 'SESSION_ALREADY_REGISTERED', 'request.session'],
  ['session beside @fastify/session', app => registered(app, [fastifyCookie], [fastifySession, { secret: SECRET }], [session, { secret: SECRET }]), 'SESSION_ALREADY_REGISTERED', 'request.session'],
  ['idempotency twice', app => registered(app, [idempotency], [idempotency]), 'IDEMPOTENCY_ALREADY_REGISTERED', 'request.idempotencyKey'],
  ['lock twice', app => registered(app, [lock], [lock]), 'LOCK_ALREADY_REGISTERED', 'fastify.locks'],
  ['events twice', app => registered(app, [events], [events]), 'EVENTS_ALREADY_REGISTERED', 'fastify.events'],
  ['health twice', app => registered(app, [health], [health]), 'HEALTH_ALREADY_REGISTERED', 'fastify.health'],
  ['cache in a child of one with it', async app => {
    await registered(app, [cache])
    await app.register(async child => registered(child, [cache]))
  }, 'CACHE_ALREADY_REGISTERED', 'fastify.cache'],
  ['limits for @fastify/under-pressure, which is there', app => registered(app, [underPressure], [health, { underPressure: { maxEventLoopDelay: 1000 } }]),
    'HEALTH_INVALID_OPTION', '"underPressure"', 'registered already'],

  ['a route\'s option is misspelt', async app => {
    await registered(app, [rateLimit])
    app.get('/', { config: { rateLimit: { window: '1m' } as object } }, async () => 1)
  }, 'RATE_LIMIT_INVALID_OPTION', '"window"', 'timeWindow'],
  ['a route\'s config is a duration', async app => {
    await registered(app, [cache])
    app.get('/', { config: { cache: '30s' as unknown as true } }, async () => 1)
  }, 'CACHE_INVALID_OPTION', 'route GET /: ', '"config.cache"', '"30s"', 'an object'],

  ['a ttl in place of options', async app => { await registered(app, [cache]); await call(app.cache, 'set', 'a', 1, 60) }, 'CACHE_INVALID_OPTION', 'argument "options" must be an object', '60', 'an object'],
  ['a pattern is missing', async app => { await registered(app, [cache]); await call(app.cache, 'invalidatePattern') }, 'CACHE_INVALID_OPTION', 'argument "glob" must be', 'but was undefined'],
  ['a tag in place of a list', async app => { await registered(app, [cache]); await call(app.cache, 'invalidateTags', 'a') }, 'CACHE_INVALID_OPTION', 'argument "tags" must be', 'but was the string "a"', 'a list'],
  ['text in place of a lock\'s options', async app => { await registered(app, [lock]); await call(app.locks, 'acquire', 'a', 'x') }, 'LOCK_INVALID_OPTION', 'argument "options" must be', 'but was the string "x"', 'an object'],
  ['nothing to do under a lock', async app => { await registered(app, [lock]); await call(app.locks, 'using', 'a') }, 'LOCK_INVALID_OPTION', 'argument "fn" must be', 'but was undefined', 'a function'],
  ['no listener', async app => { await registered(app, [events]); await call(app.events, 'subscribe', 'a') }, 'EVENTS_INVALID_OPTION', 'argument "handler" must be', 'but was undefined', 'a function'],
  ['a consumer without a group', async app => { await registered(app, [events]); await call(app.events.stream('a'), 'consume', { handler: () => {} }) },
    'EVENTS_INVALID_OPTION', '"group"', 'undefined'],
  ['a consumer that is a function alone', async app => { await registered(app, [events]); await call(app.events.stream('a'), 'consume', () => {}) }, 'EVENTS_INVALID_OPTION', 'a function', 'group and handler'],
  ['a check\'s options are text', async app => { await registered(app, [health]); await call(app.health, 'addCheck', 'a', () => {}, 'x') }, 'HEALTH_INVALID_OPTION', 'argument "options" must be', 'but was the string "x"', 'an object'],
  ['a check without a function', async app => { await registered(app, [health]); await call(app.health, 'addCheck', 'a') }, 'HEALTH_INVALID_OPTION', 'argument "check" must be', 'but was undefined'],
  ['an event that the cache does not have', async app => { await registered(app, [cache]); await call(app.cache, 'on', 'mis', () => {}) }, 'CACHE_INVALID_OPTION', 'unknown event "mis"; did you mean "miss"?', 'one of invalidate, hit'],
  ['an event that limits do not have', async app => { await registered(app, [rateLimit]); await call(app.rateLimiter, 'on', 'denied', () => {}) }, 'RATE_LIMIT_INVALID_OPTION', 'unknown event "denied"', 'one of allowed, refused'],
  ['a listener that is none', async app => { await registered(app, [cache]); await call(app.cache, 'on', 'miss', 'log') }, 'CACHE_INVALID_OPTION', 'argument "listener" must be', 'but was the string "log"'],
  ['a limit without a scope', async app => { await registered(app, [rateLimit]); await call(app.rateLimiter, 'consume', undefined, { name: 'a', max: 1 }) }, 'RATE_LIMIT_INVALID_VALUE', 'argument "key" is undefined', 'a string']
]

for (const [what, doIt, code, ...names] of mistakes) {
  t.test(`${what}: the error has a code, and names the given and the allowed values`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    const error = await Promise.resolve().then(() => doIt(app)).then(() => undefined, (thrown: Error & { code?: string }) => thrown)
    t.equal(error?.code, `FST_REDIS_SUITE_${code}`)
    for (const name of names) t.match(error?.message, name)
    t.notMatch(error?.message, 'hunter2')
  })
}

/** Mistakes of a handler, or of a function of a route, are detected when it is called. */
const calls: Array<[what: string, code: string, build: (app: FastifyInstance) => Promise<unknown>, request?: InjectOptions]> = [
  ['a tag that is no text', 'CACHE_INVALID_OPTION', async app => {
    await app.register(cache)
    app.get('/', { config: { cache: true } }, async (_, reply) => await reply.cacheTags(['a', 'b'] as unknown as string).send('x'))
  }],
  ['tags that are no list', 'CACHE_INVALID_OPTION', async app => {
    await app.register(cache)
    app.get('/', { config: { cache: { tags: () => 'product' as unknown as string[] } } }, async () => 'x')
  }],
  ['what a login keeps is no list', 'SESSION_INVALID_OPTION', async app => {
    await app.register(session, { secret: SECRET })
    app.get('/', async request => await request.login('ann', { keep: 'cart' as unknown as string[] }))
  }],
  ['@fastify/cookie with a hook that comes too late', 'SESSION_NO_COOKIES', async app => {
    await app.register(fastifyCookie, { hook: 'preHandler' })
    await app.register(session, { secret: SECRET })
    app.get('/', async () => 'x')
  }],
  ['a login\'s option is misspelt', 'SESSION_INVALID_OPTION', async app => {
    await app.register(session, { secret: SECRET })
    app.get('/', async request => await request.login('ann', { kep: ['cart'] } as object))
  }],
  ...[['is circular', () => { const body: Record<string, unknown> = {}; return Object.assign(body, { body }) }], ['has a BigInt', () => ({ n: 10n })], ['is a symbol', () => Symbol('odd')]].map(([what, parse]): typeof calls[number] =>
    [`a parsed body that ${String(what)}`, 'IDEMPOTENCY_UNSERIALIZABLE', async app => {
      await app.register(idempotency, { scope: request => request.ip })
      app.addContentTypeParser('text/odd', { parseAs: 'string' }, async () => (parse as () => unknown)())
      app.post('/', { config: { idempotency: true } }, async () => 'x')
    }, { method: 'POST', payload: 'x', headers: { 'content-type': 'text/odd', 'idempotency-key': 'k' } }])
]

for (const [what, code, build, request] of calls) {
  t.test(`${what}: the response is 500 with a code`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await build(app)
    const answer = await app.inject({ url: '/', ...request })
    t.match(answer.json(), { statusCode: 500, code: `FST_REDIS_SUITE_${code}` })
  })
}

type Build = (app: FastifyInstance) => unknown

/** Builds an app, makes it ready, and returns its warnings: each message after its plugin, with its routes. */
async function warningsOf (t: Test, build: Build): Promise<Record<string, string[]>> {
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger as never }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await build(app)
  await app.ready()
  const warned = lines.filter(({ level }) => Number(level) >= 40).map(({ msg, routes }) => [String(msg).split(':', 2).join(':').replace(/,? as .*/, ''), routes as string[]] as const)
  t.equal(new Set(warned.map(([message]) => message)).size, warned.length, 'each is warned of once')
  return Object.fromEntries(warned)
}

const use = (app: FastifyInstance, plugin: unknown, options: object = {}) => app.register(plugin as typeof lock, { redis: false, ...options } as object)
const asked = { rateLimit: { max: 1 }, cache: true, idempotency: true } as const
const handler = async () => 'x'

const NO_EFFECT = {
  'rate-limit: config.rateLimit of these routes has no effect': ['GET /a', 'POST /b'],
  'cache: config.cache of these routes has no effect': ['GET /a'],
  'idempotency: config.idempotency of these routes has no effect': ['POST /b']
}

for (const name of ['redis', 'events', 'health', 'lock', 'metrics', 'session'] as const) {
  t.test(`where ${name} is the only plugin of the suite, it warns of routes whose config asks for one that is not registered`, async t => {
    const client = name === 'redis' ? new Redis((await sharedRedis()).url, { lazyConnect: true }) : undefined
    const warned = await warningsOf(t, async app => {
      if (client !== undefined) await app.register(redis, { client, closeClient: true })
      else await app.register(suite[name] as typeof lock, name === 'session' ? { secret: SECRET } as object : {})
      app.get('/a', { config: { rateLimit: asked.rateLimit, cache: true } }, handler)
      await app.register(async child => { child.post('/b', { config: { rateLimit: asked.rateLimit, cache: false, idempotency: true } }, handler) })
      app.get('/c', { config: { rateLimit: false, cache: false, idempotency: false } }, handler)
    })
    t.same(warned, NO_EFFECT)
  })
}

const LATE = 'these routes do not pass this plugin'
const situations: Array<[what: string, warned: Record<string, string[]>, build: Build]> = [
  ['plugins that are registered without await do not serve the routes that follow', {
    [`rate-limit: ${LATE}`]: ['GET /child', 'GET /a', 'POST /b', 'GET /plain'],
    [`cache: ${LATE}`]: ['GET /a'],
    [`idempotency: ${LATE}`]: ['POST /b']
  }, app => {
    app.register(async child => { child.get('/child', handler) })
    for (const plugin of [rateLimit, cache, idempotency]) use(app, plugin)
    app.get('/a', { config: { cache: true } }, handler)
    app.post('/b', { config: { rateLimit: { max: 1 }, idempotency: true } }, handler)
    app.get('/plain', handler)
    app.get('/file', { schema: { hide: true } as object }, handler)
    app.get('/meant', { config: { rateLimit: false } }, handler)
  }],
  ['a cache of all routes is loaded after some, and after one that changes what it stores', { [`cache: ${LATE}`]: ['PUT /stored', 'GET /early'] }, async app => {
    app.put('/stored', handler)
    app.put('/other', handler)
    app.get('/early', handler)
    await use(app, cache, { global: true })
    app.get('/stored', handler)
  }],
  ['a plugin in a context beside the route\'s', { 'rate-limit: config.rateLimit of these routes has no effect': ['GET /b'] }, async app => {
    await app.register(async child => { await use(child, rateLimit) })
    await app.register(async child => {
      child.get('/b', { config: { rateLimit: { max: 1 } } }, handler)
      child.get('/c', handler)
    })
  }],
  ['a plugin of a context that is loaded after the routes of the context', { [`rate-limit: ${LATE}`]: ['GET /b'] }, async app => {
    await use(app, rateLimit)
    await app.register(async child => {
      child.get('/b', handler)
      await use(child, rateLimit, { max: 1 })
    })
  }],
  ['responses to a POST are to be stored', { 'cache: config.cache of these routes has no effect except "invalidates"': ['POST /a', 'PUT,DELETE /b', 'POST /c'] }, async app => {
    await use(app, cache, { global: true })
    app.post('/a', { config: { cache: { ttl: '5m' } } }, handler)
    app.route({ method: ['PUT', 'DELETE'], url: '/b', config: { cache: { invalidates: ['a'], tags: ['b'] } }, handler })
    app.post('/c', { config: { cache: true } }, handler)
    app.post('/d', { config: { cache: { invalidates: ['a'] } } }, handler)
    app.route({ method: ['GET', 'POST'], url: '/e', config: { cache: { ttl: '5m' } }, handler })
    app.post('/f', handler)
  }],
  ['mercurius has one config for its GET and its POST', {}, async app => {
    await use(app, cache)
    const additionalRouteOptions = { config: { cache: { ttl: '5m' } } } as object
    await app.register(mercurius, { schema: 'type Query { a: Int }', additionalRouteOptions })
  }],
  ['@fastify/rate-limit reads config.rateLimit', {}, async app => {
    // Its types would apply to `fastify.rateLimit` everywhere.
    await app.register((await import('@fastify/rate-limit' as string) as { default: typeof lock }).default)
    await use(app, lock)
    app.get('/a', { config: { rateLimit: { max: 1 } } }, handler)
  }],
  ['the config of a plugin has another case, or hyphens', {
    'rate-limit: config.ratelimit of these routes has no effect': ['GET /a'],
    'rate-limit: config.rate-limit of these routes has no effect': ['GET /b'],
    'cache: config.Cache of these routes has no effect': ['GET /b']
  }, async app => {
    for (const plugin of [rateLimit, cache, idempotency]) await use(app, plugin)
    const config = (given: object) => ({ config: given })
    app.get('/a', config({ ratelimit: { max: 1 } }), handler)
    app.get('/b', config({ 'rate-limit': { max: 1 }, Cache: true, idempotencyKeys: 1 }), handler)
    app.get('/c', config({ ratelimit: 'of another plugin', rateLimit: { max: 1 } }), handler)
  }],
  ['all is as it should be', {}, async app => {
    for (const plugin of [rateLimit, cache, idempotency]) await use(app, plugin)
    await app.register(health, { redis: false })
    await app.register(metrics)
    app.get('/', { config: { rateLimit: { max: 1 }, cache: true } }, handler)
    await app.register(async child => {
      child.post('/', { config: { idempotency: true, cache: { invalidates: ['a'] } } }, handler)
      child.get('/', { config: { cache: true }, constraints: { version: '1.0.0' } }, handler)
    }, { prefix: '/p' })
  }],
  ['many routes are named in part', { 'cache: config.cache of these routes has no effect': [...Array.from({ length: 10 }, (_, i) => `GET /${i}`), '… and 2 more'] }, async app => {
    await use(app, lock)
    for (let i = 0; i < 12; i++) app.get(`/${i}`, { config: { cache: true } }, handler)
  }]
]

for (const [what, warned, build] of situations) {
  t.test(`${what}: the log says so when the app is ready`, async t => {
    t.same(await warningsOf(t, build), warned)
  })
}

t.test('redis is registered after plugins that then do not use it: the log names each of them when the app is ready, unless its option redis is false', async t => {
  const client = new Redis((await sharedRedis()).url, { lazyConnect: true })
  const build = async (options: object) => await warningsOf(t, async app => {
    for (const plugin of [cache, events, health, idempotency, lock, rateLimit]) await app.register(plugin as typeof lock, options)
    await app.register(session as unknown as typeof lock, { secret: SECRET, ...options } as object)
    await app.register(redis, { client })
  })
  const late = Object.keys(await build({}))
  t.same(late.map(line => line.split(':', 1)[0]), ['cache', 'events', 'health', 'idempotency', 'lock', 'rate-limit', 'session'])
  for (const line of late) t.match(line, /: fastify\.redis was registered after this plugin, so (Redis is not checked|the store is in the memory of this process)$/)
  t.same(await build({ redis: false }), {})
  client.disconnect()
})

t.test('no Redis in a worker of a Node.js cluster: the log warns that each worker has a store of its own, unless the option redis is false', async t => {
  t.teardown(() => { Object.assign(cluster, { isWorker: false }) })
  const warned = async (isWorker: boolean, options: object) => {
    Object.assign(cluster, { isWorker })
    return Object.keys(await warningsOf(t, async app => { await app.register(cache as unknown as typeof lock, options) }))
  }
  t.same(await warned(true, {}), ['cache: no Redis, the store is in the memory of this process, and each worker of the cluster has its own'])
  t.same([await warned(true, { redis: false }), await warned(false, {})], [[], []])
})
