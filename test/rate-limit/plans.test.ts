// Limits by caller: plans, and functions that return limits.
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { LimitOptions, RateLimitPluginOptions, RouteRateLimitOptions } from '../../plugins/rate-limit/index.js'
import { createTestApp, forEachStore, type StoreName } from '../helpers/index.js'

const byHeader = { keyGenerator: (request: { headers: Record<string, unknown> }) => String(request.headers['x-user']) }
const planOf = (request: { headers: Record<string, unknown> }) => request.headers['x-plan'] === 'none' ? false : String(request.headers['x-plan'])
const plans = {
  free: [{ max: 2, timeWindow: '1 minute' }],
  pro: [{ max: 5, timeWindow: '1 minute' }, { max: 6, timeWindow: '1 hour', name: 'hourly' }],
  staff: false
} as const

async function open (t: Test, store: StoreName, options: RateLimitPluginOptions, config?: RouteRateLimitOptions) {
  return await createTestApp(t, {
    store,
    plugins: { rateLimit: { ...byHeader, ...options } },
    routes: app => app.get('/', { config: { ...config && { rateLimit: config } } }, async request => ({ limited: request.rateLimit !== null }))
  })
}

const ask = async (app: FastifyInstance, user: string, plan = '') => {
  const { statusCode, headers, body } = await app.inject({ url: '/', headers: { 'x-user': user, 'x-plan': plan } })
  return { status: statusCode, remaining: headers['x-ratelimit-remaining'], headers, body }
}
const statuses = async (app: FastifyInstance, count: number, user: string, plan?: string) => {
  const received: number[] = []
  for (let i = 0; i < count; i++) received.push((await ask(app, user, plan)).status)
  return received
}
const passed = (count: number): number[] => Array(count).fill(200)

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: each caller has the limits of its plan, and one without limits has neither count nor fields`, async t => {
    const { app } = await open(t, store, { plans, plan: planOf })
    t.same(await statuses(app, 3, 'ann', 'free'), [...passed(2), 429])
    t.same(await statuses(app, 6, 'bob', 'pro'), [...passed(5), 429])
    for (const plan of ['staff', 'none']) {
      t.same(await statuses(app, 10, 'eve', plan), passed(10))
      const { headers, body } = await ask(app, 'eve', plan)
      t.same(Object.keys(headers).filter(name => name.includes('ratelimit')), [])
      t.equal(body, '{"limited":false}')
    }
    t.equal((await ask(app, 'eve', 'free')).remaining, '1', 'nothing was counted')
  })

  t.test(`${store}: a caller that changes the plan keeps what was used, in both directions`, async t => {
    const { app, clock } = await open(t, store, { plans, plan: planOf })
    t.same(await statuses(app, 3, 'ann', 'free'), [...passed(2), 429])
    t.same(await statuses(app, 4, 'ann', 'pro'), [...passed(3), 429])
    t.equal((await ask(app, 'ann', 'free')).status, 429)
    await clock.advance('61s')
    t.same(await statuses(app, 2, 'ann', 'pro'), [200, 429], 'of 6 an hour 5 were used')
    t.equal((await ask(app, 'ann', 'pro')).headers['x-ratelimit-limit'], '6')
    t.same(await statuses(app, 2, 'ann', 'free'), [200, 429])
  })

  t.test(`${store}: limits of a function are those of the caller, also after their list was changed`, async t => {
    const own: Record<string, LimitOptions[] | false> = { ann: [{ max: 1, timeWindow: '1s' }], bob: [{ max: 3, timeWindow: '1s' }, { max: Infinity, timeWindow: '1h' }], eve: false, max: [{ max: Infinity, timeWindow: '1s' }] }
    const { app } = await open(t, store, { limits: async (_request, key) => own[key] ?? [] })
    t.same(await statuses(app, 2, 'ann'), [200, 429])
    t.same(await statuses(app, 4, 'bob'), [...passed(3), 429])
    for (const name of ['eve', 'max']) t.same(await statuses(app, 5, name), passed(5))
    if (own['ann']) own['ann'][0] = { max: 2, timeWindow: '1s' }
    t.same(await statuses(app, 2, 'ann'), [200, 429])
  })

  t.test(`${store}: a function that returns Infinity for max limits nothing`, async t => {
    const { app } = await open(t, store, { max: (_request, key) => key === 'eve' ? Infinity : 1 })
    t.same(await statuses(app, 2, 'ann'), [200, 429])
    t.same(await statuses(app, 5, 'eve'), passed(5))
  })

  t.test(`${store}: a route has plans of its own, or a limit in place of the plugin's plans`, async t => {
    const { app } = await createTestApp(t, {
      store,
      plugins: { rateLimit: { ...byHeader, plans, plan: planOf } },
      routes (app) {
        app.get('/', async () => 'plugin')
        app.get('/own', { config: { rateLimit: { plans: { free: [{ max: 1, timeWindow: '1s' }] } } } }, async () => 'own')
        app.get('/max', { config: { rateLimit: { max: 1 } } }, async () => 'max')
      }
    })
    const get = async (url: string) => (await app.inject({ url, headers: { 'x-user': 'ann', 'x-plan': 'free' } })).statusCode
    t.same([await get('/own'), await get('/own'), await get('/max'), await get('/max'), await get('/'), await get('/'), await get('/')], [200, 429, 200, 429, 200, 200, 429])
  })
})

t.test('what a function returned that is no plan and no limits is an error that names it', async t => {
  for (const [options, message] of [
    [{ plans, plan: () => 'gold' }, 'the function "plan" returned the string "gold"; allowed: a name in "plans", or false for a caller without limits'],
    [{ plans, plan: () => undefined as never }, 'the function "plan" returned undefined'],
    [{ plans, plan: () => 'constructor' }, 'the function "plan" returned the string "constructor"'],
    [{ limits: () => 'many' as never }, 'the function "limits" returned the string "many"; allowed: a list of 1 to 10 limits, or false for a caller without limits'],
    [{ limits: () => [] }, 'the function "limits" returned'],
    [{ limits: () => [{ max: -1, timeWindow: '1s' }] }, 'the function "limits" returned'],
    [{ limits: () => [null as never] }, 'the function "limits" returned'],
    [{ limits: () => [{ max: 1, timeWindow: '1s', maxx: 1 } as never] }, 'maxx'],
    [{ max: () => NaN }, 'the function "max" returned NaN']
  ] as Array<[RateLimitPluginOptions, string]>) {
    const { app } = await open(t, 'memory', options)
    const { status, body } = await ask(app, 'ann')
    const { code, message: found } = JSON.parse(body) as { code: string, message: string }
    t.same([status, code], [500, 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE'], message)
    t.ok(found.includes(message), found)
  }
})

t.test('plans that cannot be used are refused at registration', async t => {
  const limits = [{ max: 1, timeWindow: '1s' }]
  for (const [options, message] of [
    [{ plans }, 'option "plan" must be a function beside "plans"'],
    [{ plans, plan: 'free' as never }, 'option "plan"'],
    [{ plans: {}, plan: planOf }, 'option "plans" must be an object with the limits of at least one plan'],
    [{ plans: limits as never, plan: planOf }, 'option "plans" must be an object'],
    [{ plans: { free: 5 as never }, plan: planOf }, 'option "plans" must be for \'free\' a list of 1 to 10 limits, or false'],
    [{ plans: { free: [{ max: 1 } as never] }, plan: planOf }, 'option "limits" must be a list of objects'],
    [{ plans: { free: [{ max: 1e9, timeWindow: '1s' }] }, plan: planOf }, 'option "max"'],
    [{ plans, plan: planOf, max: 5 }, 'option "max" must be left out beside "plans"'],
    [{ plans, plan: planOf, limits }, 'option "limits" must be left out beside "plans"'],
    [{ limits: () => limits, max: 5 }, 'option "max" must be left out beside "limits"'],
    [{ limits: false as never }, 'option "limits" must be a list of 1 to 10 limits, or a function']
  ] as Array<[RateLimitPluginOptions, string]>) {
    const error = await open(t, 'memory', options).then(() => undefined, (error: unknown) => error as { code: string, message: string })
    t.equal(error?.code, 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION', message)
    t.ok(error?.message.includes(message), `${error?.message}`)
  }
})
