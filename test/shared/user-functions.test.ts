import t, { type Test } from 'tap'
import type {} from '../../plugins/index.js'
import { advanceUntil, createTestApp, forEachStore, type StoreName, type TestApp, type TestAppOptions } from '../helpers/index.js'

/** How a function of the app fails. An uncaught error fails the test, as tap reports unhandled rejections. */
const FAILURES: Record<string, (reason: string) => never> = {
  throws: (reason: string) => { throw new Error(reason) },
  rejects: (async (reason: string) => { throw new Error(reason) }) as never,
  'rejects later': (async (reason: string) => { await new Promise(resolve => setImmediate(resolve)); throw new Error(reason) }) as never,
  'is a thenable that rejects': ((reason: string) => ({ then: (_: unknown, reject: (error: Error) => void) => reject(new Error(reason)) })) as never
}

interface Given extends TestApp {
  /** The status of a request to `/`. */
  status: (method?: 'GET' | 'POST') => Promise<number>
}

interface Case {
  /** @param fail - throws or rejects */
  plugins: (fail: () => never) => NonNullable<TestAppOptions['plugins']>
  config?: (fail: () => never) => object
  method?: 'GET' | 'POST'
  /** The options of a response with server-sent events. */
  sse?: (fail: () => never) => object
  /** Calls the function. */
  run: (given: Given, fail: () => never, t: Test) => Promise<unknown>
  /** The log line, if the caller gets no error. @default the error that Fastify logs */
  logged?: object | 'reported'
}

const LIMIT = { timeout: '1h', max: 1 }
const KEYED = { timeout: '1 day' } as const

const respondsWith = (...expected: number[]): Case['run'] => async ({ status }, _, t) => {
  const found: number[] = []
  while (found.length < expected.length) found.push(await status())
  t.same(found, expected)
}
/** Only the request fails. */
const fails500 = respondsWith(500)

const CASES: Record<string, Case> = {
  ...Object.fromEntries((['invalidate', 'miss', 'store', 'hit'] as const).map((event): [string, Case] => [`a listener of fastify.cache.on('${event}')`, {
    plugins: () => ({ cache: {} }),
    async run ({ app }, fail, t) {
      app.cache.on(event, fail)
      t.equal(await app.cache.getOrSet('key', async () => 'value'), 'value')
      t.equal(await app.cache.getOrSet('key', async () => 'other'), 'value')
      await app.cache.invalidateTags(['tag'])
    },
    logged: { plugin: 'cache', event, reason: 'failed', msg: 'cache: a listener failed' }
  }])),
  ...Object.fromEntries((['allowed', 'refused', 'banned'] as const).map((event): [string, Case] => [`a listener of fastify.rateLimiter.on('${event}')`, {
    plugins: () => ({ rateLimit: { ...LIMIT, ban: 1 } }),
    async run ({ app, status }, fail, t) {
      app.rateLimiter.on(event, fail)
      t.same([await status(), await status(), await status()], [200, 429, 403])
    },
    logged: { plugin: 'rate-limit', event, reason: 'failed', msg: 'rate-limit: a listener failed' }
  }])),
  ...Object.fromEntries((['onExceeding', 'onExceeded', 'onBanReach'] as const).map((event): [string, Case] => [`${event} of the rate limit`, {
    plugins: fail => ({ rateLimit: { ...LIMIT, ban: 1, [event]: fail } }),
    run: respondsWith(200, 429, 403),
    logged: { plugin: 'rate-limit', event, reason: 'failed', msg: 'rate-limit: a listener failed' }
  }])),
  ...Object.fromEntries((['keyGenerator', 'max', 'timeWindow', 'cost', 'allowList', 'denyList'] as const).flatMap((option): Array<[string, Case]> => [
    [`${option} of the rate limit`, { plugins: fail => ({ rateLimit: { ...LIMIT, [option]: fail } }), run: fails500 }],
    [`${option} of a limit that is asked early`, { plugins: fail => ({ rateLimit: { ...LIMIT, hook: 'preHandler', early: true, [option]: fail } }), run: fails500 }]
  ])),
  'errorResponseBuilder of the rate limit': { plugins: fail => ({ rateLimit: { ...LIMIT, errorResponseBuilder: fail } }), run: respondsWith(200, 500) },
  'a store of the app\'s own for the rate limit': {
    plugins: fail => ({ rateLimit: { ...LIMIT, skipOnError: false, store: class { incr () { return fail() } child () { return this } } as never } }),
    run: fails500
  },
  'scope of idempotency': { plugins: fail => ({ idempotency: { ...KEYED, scope: fail } }), config: () => ({ idempotency: true }), method: 'POST', run: fails500 },
  'fingerprint of idempotency': { plugins: fail => ({ idempotency: { ...KEYED, scope: () => 'caller', fingerprint: fail } }), config: () => ({ idempotency: true }), method: 'POST', run: fails500 },
  'explain of the cache': {
    plugins: fail => ({ cache: { explain: fail } }),
    config: () => ({ cache: { ttl: 0 } }),
    run: respondsWith(200),
    logged: { plugin: 'cache', reason: 'failed', msg: 'cache: `explain` failed' }
  },
  'private of a cached route': { plugins: () => ({ cache: {} }), config: fail => ({ cache: { private: fail } }), run: fails500 },
  'tags of a cached route': { plugins: () => ({ cache: {} }), config: fail => ({ cache: { tags: fail } }), run: fails500 },
  'ttl of a cached route': { plugins: () => ({ cache: {} }), config: fail => ({ cache: { ttl: fail } }), run: fails500 },
  'invalidates of a route': {
    plugins: () => ({ cache: {} }),
    method: 'POST',
    config: fail => ({ cache: { invalidates: fail } }),
    run: respondsWith(200),
    logged: { plugin: 'cache', reason: 'failed' }
  },
  ...Object.fromEntries((['ttl', 'tags'] as const).map((option): [string, Case] => [`${option} of a value`, {
    plugins: () => ({ cache: {} }),
    async run ({ app }, fail, t) {
      await t.rejects(app.cache.set('key', 'value', { [option]: fail }), { message: 'failed' })
      await t.rejects(app.cache.getOrSet('other', async () => 'value', { [option]: fail }), { message: 'failed' })
    },
    logged: 'reported'
  }])),
  'key of fastify.cache.wrap': {
    plugins: () => ({ cache: {} }),
    run: async ({ app }, fail, t) => { await t.rejects(app.cache.wrap(async () => 'value', { key: fail })(), { message: 'failed' }) },
    logged: 'reported'
  },
  'a factory of getOrSet': {
    plugins: () => ({ cache: {} }),
    run: async ({ app }, fail, t) => { await t.rejects(app.cache.getOrSet('key', fail), { message: 'failed' }) },
    logged: 'reported'
  },
  'serialize of a serializer': {
    plugins: fail => ({ cache: { serializer: { name: 'own', serialize: fail, deserialize: () => 'value' } } }),
    run: async ({ app }, _, t) => { await t.rejects(app.cache.set('key', 'value'), { code: 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE' }) },
    logged: 'reported'
  },
  'deserialize of a serializer': {
    plugins: fail => ({ cache: { serializer: { name: 'own', serialize: () => 'value', deserialize: fail } } }),
    async run ({ app }, _, t) {
      await app.cache.set('key', 'value')
      t.equal(await app.cache.get('key'), undefined)
    },
    logged: 'reported'
  },
  'a writer of writeThrough': {
    plugins: () => ({ cache: {} }),
    run: async ({ app }, fail, t) => { await t.rejects(app.cache.writeThrough('key', 'value', fail), { message: 'failed' }) },
    logged: 'reported'
  },
  'write of writeBehind': {
    plugins: () => ({ cache: {} }),
    async run ({ app, clock, lines }, fail) {
      const behind = app.cache.writeBehind('views', { write: fail, flushEvery: 1, retries: 0, backoff: { min: 1, max: 1 } })
      await behind.add('key', 1)
      await advanceUntil(clock, 'the write is a dead letter', () => lines.some(({ msg }) => msg === 'cache: a write became a dead letter'))
    },
    logged: { plugin: 'cache', writeBehind: 'views', reason: 'failed' }
  },
  'isOutage of writeBehind': {
    plugins: () => ({ cache: {} }),
    async run ({ app, clock, lines }, fail) {
      const behind = app.cache.writeBehind('views', { write: async () => { throw new Error('not written') }, isOutage: fail, flushEvery: 1, retries: 0, backoff: { min: 1, max: 1 } })
      await behind.add('key', 1)
      await advanceUntil(clock, 'the write is a dead letter', () => lines.some(({ msg }) => msg === 'cache: a write became a dead letter'))
    },
    logged: { plugin: 'cache', writeBehind: 'views', reason: 'failed', msg: 'cache: `isOutage` failed, so the writes count as failed' }
  },
  'a handler of fastify.events.subscribe': {
    plugins: () => ({ events: {} }),
    async run ({ app, clock }, fail) {
      let heard = 0
      await app.events.subscribe('news', fail)
      await app.events.subscribe('news', () => { heard++ })
      for (let count = 1; count <= 2; count++) {
        await app.events.publish('news', 1)
        await advanceUntil(clock, 'the other handler is called', () => heard === count)
      }
    },
    logged: { plugin: 'events', channel: 'news', reason: 'failed', msg: 'events: a handler failed' }
  },
  ...Object.fromEntries((['event', 'map'] as const).map((option): [string, Case] => [`${option} of server-sent events`, {
    plugins: () => ({ events: {} }),
    sse: fail => ({ [option]: (data: unknown) => data === 'first' ? fail() : option === 'map' ? data : 'type' }),
    async run ({ app, clock, lines }, _, t) {
      const body = (await app.inject({ url: '/events', payloadAsStream: true })).stream().setEncoding('utf8')
      let text = ''
      body.on('data', (chunk: string) => { text += chunk })
      await app.events.publish('news', 'first')
      await advanceUntil(clock, 'the failure is logged', () => lines.some(({ reason }) => reason === 'failed'))
      await app.events.publish('news', 'second')
      await advanceUntil(clock, 'the second event comes', () => text.includes('second'))
      t.notMatch(text, /first/)
      body.destroy()
    },
    logged: { plugin: 'events', reason: 'failed', channel: 'news', msg: 'events: an event was left out, as `map` or `event` failed' }
  }])),
  'a handler of a stream': {
    plugins: () => ({ events: {} }),
    async run ({ app, clock, lines }, fail) {
      const stream = app.events.stream('orders')
      await stream.consume({ group: 'mail', handler: fail, retries: 0, backoff: { min: 1, max: 1 } })
      await stream.append(1)
      await advanceUntil(clock, 'the event is given up', () => lines.some(({ reason, attempts }) => reason === 'failed' && attempts === 1))
    },
    logged: { plugin: 'events', reason: 'failed' }
  },
  'a health check': {
    plugins: () => ({ health: { details: true } }),
    async run ({ app }, fail, t) {
      app.health.addCheck('own', fail)
      t.match((await app.inject('/health')).json(), { status: 'fail', checks: { own: [{ status: 'fail', output: 'failed' }] } })
    },
    logged: 'reported'
  },
  'details of health': {
    plugins: fail => ({ health: { details: fail } }),
    run: async ({ app }, _, t) => { t.same((await app.inject('/health')).json(), { status: 'pass' }) },
    logged: { plugin: 'health', reason: 'failed' }
  },
  'expose of metrics': {
    plugins: fail => ({ metrics: { expose: fail } }),
    run: async ({ app }, _, t) => { t.equal((await app.inject('/metrics')).statusCode, 404) },
    logged: { plugin: 'metrics', reason: 'failed' }
  },
  'a section of fastify.locks.using': {
    plugins: () => ({ lock: {} }),
    run: async ({ app }, fail, t) => { await t.rejects(app.locks.using('door', fail), { message: 'failed' }) },
    logged: 'reported'
  },
  'idGenerator of the session': {
    plugins: fail => ({ session: { idGenerator: fail } }),
    async run ({ app }, _, t) { t.equal((await app.inject({ url: '/changed', headers: { cookie: 'sid=none' } })).statusCode, 500) }
  },
  'sign of the session\'s signer': {
    plugins: fail => ({ session: { secret: { sign: fail, unsign: () => ({ valid: true, renew: false, value: 'none' }) } as never } }),
    async run ({ app }, _, t) { t.equal((await app.inject({ url: '/changed', headers: { cookie: 'sid=none' } })).statusCode, 500) }
  },
  'unsign of the session\'s signer': {
    plugins: fail => ({ session: { secret: { sign: () => 'signed', unsign: fail } as never } }),
    async run ({ app }, _, t) { t.equal((await app.inject({ url: '/changed', headers: { cookie: 'sid=none' } })).statusCode, 500) }
  },
  'userId of the session': {
    plugins: fail => ({ session: { userId: fail } }),
    async run ({ app }, _, t) { t.equal((await app.inject('/changed')).statusCode, 500) }
  }
}

forEachStore(['memory', 'redis'], store => {
  for (const [what, each] of Object.entries(CASES)) {
    t.test(`${store}: ${what} that throws or rejects is logged or reported to its caller, and the process goes on`, async t => {
      for (const [how, failure] of Object.entries(FAILURES)) await tryOut(t, store, each, how, () => failure('failed'))
    })
  }
})

async function tryOut (t: Test, store: StoreName, { plugins, config, method = 'GET', sse, run, logged }: Case, how: string, fail: () => never): Promise<void> {
  const given = await createTestApp(t, {
    store,
    plugins: plugins(fail),
    routes: app => {
      app.route({ method, url: '/', config: config?.(fail) ?? {}, handler: async () => 'hello' })
      if (app.hasDecorator('sessions')) app.get('/changed', async request => { Object.assign(request.session, { cart: 1 }); return 'hello' })
      if (app.hasDecorator('events')) app.get('/events', async (request, reply) => await app.events.sse(request, reply, 'news', sse?.(fail)))
    }
  })
  const { app, lines } = given
  const status = async () => (await app.inject({ method, url: '/', headers: { 'idempotency-key': 'key' } })).statusCode
  await run({ ...given, status }, fail, t)
  // A later rejection is logged later.
  for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve))
  if (logged === 'reported') return
  const isLogged = (line: Record<string, unknown>) => logged === undefined ? 'err' in line : Object.entries(logged).every(([name, value]) => line[name] === value)
  t.ok(lines.some(isLogged), `what ${how} is logged`)
}
