import fastifyCookie from '@fastify/cookie'
import fastifySession from '@fastify/session'
import underPressure from '@fastify/under-pressure'
import Fastify, { type FastifyInstance, type InjectOptions } from 'fastify'
import t from 'tap'
import * as suite from '../../plugins/index.js'

const { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } = suite
const SECRET = 'a secret of at least thirty-two characters'

/** What was done wrong; the code of the error that comes of it, without what all begin with; and what its message has to name. */
type Mistake = [what: string, doIt: (app: FastifyInstance) => unknown, code: string, ...names: string[]]

const registered = async (app: FastifyInstance, ...plugins: Array<[plugin: unknown, options?: object]>) => {
  for (const [plugin, options] of plugins) await app.register(plugin as typeof lock, { ...options })
}

/** Calls a decorator's method as JavaScript may, where no compiler refuses what is given. */
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
  ['an option of a penalty is misspelt', app => registered(app, [rateLimit, { penalty: { bse: 1 } }]), 'RATE_LIMIT_INVALID_OPTION', 'unknown option "bse"; did you mean "base"?'],
  ['an option of paths is misspelt', app => registered(app, [health, { paths: { redy: '/r' } }]), 'HEALTH_INVALID_OPTION', 'unknown option "redy"; did you mean "ready"?'],
  ['an option of a key is misspelt', app => registered(app, [cache, { key: { hosts: true } }]), 'CACHE_INVALID_OPTION', 'unknown option "hosts"; did you mean "host"?'],
  ['a header that is not sent is turned off', app => registered(app, [rateLimit, { addHeaders: { 'x-ratelimit-limits': false } }]), 'RATE_LIMIT_INVALID_OPTION', 'unknown header "x-ratelimit-limits"; did you mean "x-ratelimit-limit"?'],
  ['a list of query parameters is misspelt', app => registered(app, [cache, { key: { query: { includes: ['a'] } } }]), 'CACHE_INVALID_OPTION', 'unknown option "includes"; did you mean "include"?'],
  ['a number is given as text', app => registered(app, [rateLimit, { max: '5' }]), 'RATE_LIMIT_INVALID_OPTION', 'option "max" is the string "5"; allowed: a whole number'],
  ['a secret is too short', app => registered(app, [session, { secret: 'hunter2' }]), 'SESSION_INVALID_OPTION', 'option "secret" is too short'],
  ['a duration is none', app => registered(app, [cache, { ttl: '5 apples' }]), 'CACHE_INVALID_OPTION', '"ttl"', '"5 apples"', "'30s'"],
  ['a maximum is NaN', app => registered(app, [rateLimit, { max: NaN }]), 'RATE_LIMIT_INVALID_OPTION', '"max"', 'NaN', 'whole number'],
  ['there is no secret', app => registered(app, [session]), 'SESSION_INVALID_OPTION', '"secret"', 'undefined', '32 characters'],
  ['a plugin is given the URL of a Redis', app => registered(app, [lock, { redis: 'redis://localhost' }]), 'LOCK_INVALID_OPTION', '"redis"', 'redis://localhost', 'ioredis client'],
  ['the URL lacks its scheme', app => registered(app, [redis, { url: 'ann:hunter2@localhost:6379' }]), 'REDIS_INVALID_OPTION', '"url"', 'redis://host:port'],
  ['url and host are given both', app => registered(app, [redis, { url: 'redis://localhost', host: 'localhost' }]), 'REDIS_INVALID_OPTION', 'url + host', 'only one'],
  ['a client is none', app => registered(app, [redis, { client: {} }]), 'REDIS_INVALID_OPTION', '"client"', 'an object', 'ioredis client'],
  ['a client is null', app => registered(app, [redis, { client: null }]), 'REDIS_INVALID_OPTION', '"client"', 'null', 'ioredis client'],

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

  ['a ttl in place of options', async app => { await registered(app, [cache]); await call(app.cache, 'set', 'a', 1, 60) }, 'CACHE_INVALID_OPTION', 'argument "options" is', '60', 'an object'],
  ['a pattern is missing', async app => { await registered(app, [cache]); await call(app.cache, 'invalidatePattern') }, 'CACHE_INVALID_OPTION', 'argument "glob" is undefined'],
  ['a tag in place of a list', async app => { await registered(app, [cache]); await call(app.cache, 'invalidateTags', 'a') }, 'CACHE_INVALID_OPTION', 'argument "tags" is the string "a"', 'a list'],
  ['text in place of a lock\'s options', async app => { await registered(app, [lock]); await call(app.locks, 'acquire', 'a', 'x') }, 'LOCK_INVALID_OPTION', 'argument "options" is the string "x"', 'an object'],
  ['nothing to do under a lock', async app => { await registered(app, [lock]); await call(app.locks, 'using', 'a') }, 'LOCK_INVALID_OPTION', 'argument "fn" is undefined', 'a function'],
  ['nobody to hear', async app => { await registered(app, [events]); await call(app.events, 'subscribe', 'a') }, 'EVENTS_INVALID_OPTION', 'argument "handler" is undefined', 'a function'],
  ['a consumer without a group', async app => { await registered(app, [events]); await call(app.events.stream('a'), 'consume', { handler: () => {} }) },
    'EVENTS_INVALID_OPTION', '"group"', 'undefined'],
  ['a consumer that is a function alone', async app => { await registered(app, [events]); await call(app.events.stream('a'), 'consume', () => {}) }, 'EVENTS_INVALID_OPTION', 'a function', 'group and handler'],
  ['a check\'s options are text', async app => { await registered(app, [health]); await call(app.health, 'addCheck', 'a', () => {}, 'x') }, 'HEALTH_INVALID_OPTION', 'argument "options" is the string "x"', 'an object'],
  ['a check without a function', async app => { await registered(app, [health]); await call(app.health, 'addCheck', 'a') }, 'HEALTH_INVALID_OPTION', 'argument "check" is undefined'],
  ['an event that the cache does not have', async app => { await registered(app, [cache]); await call(app.cache, 'on', 'mis', () => {}) }, 'CACHE_INVALID_OPTION', 'unknown event "mis"; did you mean "miss"?', 'one of invalidate, hit'],
  ['an event that limits do not have', async app => { await registered(app, [rateLimit]); await call(app.rateLimiter, 'on', 'denied', () => {}) }, 'RATE_LIMIT_INVALID_OPTION', 'unknown event "denied"', 'one of allowed, refused'],
  ['a listener that is none', async app => { await registered(app, [cache]); await call(app.cache, 'on', 'miss', 'log') }, 'CACHE_INVALID_OPTION', 'argument "listener" is the string "log"'],
  ['a limit of nobody', async app => { await registered(app, [rateLimit]); await call(app.rateLimiter, 'consume', undefined, { name: 'a', max: 1 }) }, 'RATE_LIMIT_INVALID_VALUE', 'argument "key" is undefined', 'a string']
]

for (const [what, doIt, code, ...names] of mistakes) {
  t.test(`${what}: the error has a code, and names what was given and what is allowed`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    const error = await Promise.resolve().then(() => doIt(app)).then(() => undefined, (thrown: Error & { code?: string }) => thrown)
    t.equal(error?.code, `FST_REDIS_SUITE_${code}`)
    for (const name of names) t.match(error?.message, name)
    t.notMatch(error?.message, 'hunter2')
  })
}

/** What a handler or a route's own function does wrong is known when it is called. */
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
  t.test(`${what}: the answer is 500 with a code`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await build(app)
    const answer = await app.inject({ url: '/', ...request })
    t.match(answer.json(), { statusCode: 500, code: `FST_REDIS_SUITE_${code}` })
  })
}
