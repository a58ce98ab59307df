import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from '../../plugins/rate-limit/index.js'
import { createTestApp, forEachStore, type StoreName } from '../helpers/index.js'

async function build (t: Test, store: StoreName, options: RateLimitPluginOptions = {}) {
  const { app } = await createTestApp(t, { store, ready: false, plugins: { rateLimit: { global: false, timeout: '1h', ...options } } })
  return app
}

const INVALID_VALUE = 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE'
const INVALID_OPTION = 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION'
const NO_COST: unknown[] = [-1, -1e9, NaN, Infinity, -Infinity, 1.5, 2 ** 53, '1', null, {}, [1], true, 1n, Symbol('1')]
const ALGORITHMS = ['sliding-log', 'sliding-counter', 'gcra'] as const

forEachStore(['memory', 'redis'], store => {
  for (const algorithm of ALGORITHMS) {
    t.test(`${store}, ${algorithm}: a cost that is not a whole number from 0 is refused wherever it is given, and changes no count`, async t => {
      const app = await build(t, store)
      const { rateLimiter } = app
      const policy = { name: 'p', max: 10, timeWindow: '1h', algorithm }
      const decision = await rateLimiter.consume('ann', policy, 4)
      app.get('/', { config: { rateLimit: { max: 10, timeWindow: '1h', algorithm } } }, async request => {
        for (const cost of NO_COST) await t.rejects(async () => { await request.rateLimit?.charge(cost as number) }, { code: INVALID_VALUE }, `charge ${String(cost)}`)
        return request.rateLimit?.remaining
      })
      for (const cost of NO_COST) {
        for (const [name, call] of Object.entries({
          consume: () => rateLimiter.consume('ann', policy, cost as number),
          peek: () => rateLimiter.peek('ann', policy, cost as number),
          refund: () => rateLimiter.refund('ann', policy, decision, cost as number)
        })) await t.rejects(async () => { await call() }, { code: INVALID_VALUE, message: /"cost".*whole number from 0/ }, `${name} ${String(cost)}`)
      }
      t.match(await rateLimiter.peek('ann', policy), { remaining: 6 })
      t.equal((await app.inject('/')).body, '9')
      t.equal((await app.inject('/')).body, '8')
      await rateLimiter.refund('ann', policy, decision, 4)
      t.match(await rateLimiter.peek('ann', policy), { remaining: 10 })
    })

    t.test(`${store}, ${algorithm}: a charge of any size leaves the key refused`, async t => {
      const app = await build(t, store)
      app.get('/', { config: { rateLimit: { max: 10, timeWindow: '1h', algorithm } } }, async request => {
        await request.rateLimit?.charge(Number.MAX_SAFE_INTEGER)
        await request.rateLimit?.charge(Number.MAX_SAFE_INTEGER)
      })
      t.equal((await app.inject('/')).statusCode, 200)
      for (let i = 0; i < 3; i++) t.match(await app.inject('/'), { statusCode: 429, headers: { 'x-ratelimit-remaining': '0', 'retry-after': /^\d+$/ } })
    })
  }

  t.test(`${store}: a key, a policy, a decision or a target that cannot be used is a coded error, and not a count of all keys`, async t => {
    const { rateLimiter } = await build(t, store)
    const policy = { name: 'p', max: 10, timeWindow: '1h' }
    const decision = await rateLimiter.consume('ann', policy)
    for (const key of [undefined, null, 5, {}, ['ann'], Promise.resolve('ann')] as never[]) {
      for (const call of [() => rateLimiter.consume(key, policy), () => rateLimiter.peek(key, policy), () => rateLimiter.refund(key, policy, decision), () => rateLimiter.reset(key, policy),
        () => rateLimiter.reset(key), () => rateLimiter.reset(key, { groupId: 'g' })]) await t.rejects(async () => { await call() }, { code: INVALID_VALUE, message: /"key"/ })
    }
    for (const none of [undefined, null, 1, {}, { allowed: 'yes' }, { ...decision, time: NaN }, rateLimiter.peek('ann', policy)] as never[]) {
      await t.rejects(rateLimiter.refund('ann', policy, none), { code: INVALID_VALUE, message: /"decision"/ })
    }
    for (const none of [undefined, null, 'p', {}, { name: 5 }] as never[]) {
      for (const call of [() => rateLimiter.consume('ann', none), () => rateLimiter.peek('ann', none), () => rateLimiter.refund('ann', none, decision)]) await t.rejects(async () => { await call() }, { code: INVALID_OPTION })
    }
    for (const none of [null, 'p', 5, {}, { name: '' }, { groupId: 5 }, { method: 'GET' }, { url: '/' }, { method: 1, url: 2 }] as never[]) {
      await t.rejects(rateLimiter.reset('ann', none), { code: INVALID_OPTION, message: /"target"/ })
    }
    t.match(await rateLimiter.peek('ann', policy), { remaining: 9 })
  })

  t.test(`${store}: a keyGenerator that returns nothing, or what stands for several callers, is a coded error that names the route, and not one count for all`, async t => {
    const app = await build(t, store)
    const keys: Record<string, [key: unknown, named: string]> = {
      '/object': [{ id: 1 }, 'an object'],
      '/promise': [Promise.resolve(['ann']), 'an array'],
      '/date': [new Date(0), 'an object'],
      '/undefined': [undefined, 'undefined'],
      '/null': [Promise.resolve(null), 'null'],
      '/nan': [Number(undefined), 'NaN'],
      '/rounded': [2 ** 53, '9007199254740992'],
      '/boolean': [false, 'false'],
      '/symbol': [Symbol('ann'), 'Symbol(ann)']
    }
    for (const [url, [key]] of Object.entries(keys)) app.get(url, { config: { rateLimit: { keyGenerator: () => key as never } } }, async () => '')
    for (const [url, [, named]] of Object.entries(keys)) {
      const { statusCode, code, message } = (await app.inject(url)).json()
      t.same([statusCode, code, message.split(';')[0]], [500, INVALID_VALUE, `rate-limit: route GET ${url}: the function "keyGenerator" returned ${named}`])
    }
    for (const key of ['', 'ann', 0, -1, 1.5, 2n ** 60n] as never[]) {
      t.match(await app.createRateLimit({ keyGenerator: () => key, groupId: 'g' })({ raw: {}, routeOptions: {} } as never), { isAllowed: false, key }, String(key))
    }
  })

  t.test(`${store}: a sliding log is limited to "maxLogUnits", by an error that names sliding-counter`, async t => {
    const names = { message: /100000 .*'sliding-log'.*'sliding-counter'.*"maxLogUnits"/ }
    for (const limited of [{ max: 100_001 }, { limits: [{ max: 1, timeWindow: '1s' }, { max: 100_001, timeWindow: '1h' }] }]) {
      await t.rejects(build(t, store, limited), { code: INVALID_OPTION, ...names }, 'of the plugin')
      const app = await build(t, store)
      t.throws(() => app.get('/', { config: { rateLimit: limited } }, async () => ''), { code: INVALID_OPTION, ...names }, 'of a route')
      t.throws(() => app.rateLimit(limited), { code: INVALID_OPTION, ...names }, 'of a hook')
      t.throws(() => app.createRateLimit(limited), { code: INVALID_OPTION, ...names }, 'of a limiter')
      await t.rejects(app.rateLimiter.consume('ann', { name: 'p', ...limited }), { code: INVALID_OPTION, ...names }, 'of a policy')
      await t.resolves(app.rateLimiter.consume('ann', { name: 'p', ...limited, algorithm: 'sliding-counter' }))
      await t.resolves(app.rateLimiter.consume('ann', { name: 'p', ...limited, algorithm: 'gcra' }))
    }
    t.match(await (await build(t, store, { max: 100_000 })).rateLimiter.consume('ann', { name: 'p', max: 100_000, timeWindow: '1h' }, 100_000), { allowed: true, remaining: 0 })
    const raised = await build(t, store, { maxLogUnits: 100_001, max: 100_001 })
    t.match(await raised.rateLimiter.consume('ann', { name: 'p', max: 100_001 }), { allowed: true })
    await t.rejects(build(t, store, { maxLogUnits: 10, max: 11 }), { code: INVALID_OPTION })
    for (const maxLogUnits of [0, -1, NaN, 1.5, 10_000_001, '5']) await t.rejects(build(t, store, { maxLogUnits: maxLogUnits as number }), { code: INVALID_OPTION, message: /"maxLogUnits"/ })
  })

  t.test(`${store}: a function of max that returns more than "maxLogUnits" is a coded error of that request`, async t => {
    const app = await build(t, store, { maxLogUnits: 1000 })
    const max = () => 1001
    const routes: Record<string, RouteRateLimitOptions> = { '/log': { max }, '/counter': { max, algorithm: 'sliding-counter' }, '/gcra': { max: () => 10_000_001, algorithm: 'gcra' }, '/small': { max: () => 1000 } }
    for (const [url, rateLimit] of Object.entries(routes)) app.get(url, { config: { rateLimit } }, async () => '')
    t.match((await app.inject('/log')).json(), { statusCode: 500, code: INVALID_VALUE, message: /route GET \/log: the function "max" returned 1001;.*1000 .*'sliding-counter'/ })
    t.match((await app.inject('/gcra')).json(), { statusCode: 500, code: INVALID_VALUE, message: /"max" returned 10000001/ })
    t.same([(await app.inject('/counter')).statusCode, (await app.inject('/small')).statusCode], [200, 200])
  })
})

t.test('on a Unix socket all requests share a limit until trustProxy is set, which the log says once, and with it the client that the proxy names is limited', async t => {
  // A folder of its own, as the path of a socket may have about 100 characters only.
  const folder = mkdtempSync(join(tmpdir(), 'socket-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  for (const [trustProxy, expected] of [[false, [200, 429, 429]], [true, [200, 429, 200]]] as const) {
    const { app, warnings } = await createTestApp(t, { server: { trustProxy }, plugins: { rateLimit: { max: 1, allowList: ['192.0.2.9'], denyList: ['192.0.2.8'] } }, routes: app => app.get('/', async () => '') })
    const path = join(folder, `${String(trustProxy)}.sock`)
    await app.listen({ path })
    const ask = async (address: string) => await new Promise<number | undefined>((resolve, reject) => {
      const sent = request({ socketPath: path, headers: { 'x-forwarded-for': address, host: 'localhost' } }, response => {
        response.resume().on('end', () => resolve(response.statusCode))
      })
      sent.on('error', reject).end()
    })
    t.same([await ask('192.0.2.1'), await ask('192.0.2.1'), await ask('192.0.2.2')], expected)
    t.match(warnings(), trustProxy ? [] : [/Unix socket.*share one limit.*trustProxy.*"keyGenerator"/])
    t.equal(warnings().length, trustProxy ? 0 : 1)
  }
})

t.test('a store of the user\'s own has no log, so that its max is not limited by "maxLogUnits"', async t => {
  class Store {
    incr (_key: string, done: (error: null, result: { current: number, ttl: number }) => void) { done(null, { current: 1, ttl: 1 }) }
    child () { return this }
  }
  const app = await build(t, 'memory', { store: Store as never, max: 1_000_000 })
  app.get('/', { config: { rateLimit: { max: () => 2_000_000 } } }, async () => '')
  t.match(await app.inject('/'), { statusCode: 200, headers: { 'x-ratelimit-limit': '2000000' } })
})
