import t from 'tap'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
process.env['REDIS_URL'] = server.url
process.env['LOG_LEVEL'] = 'silent'

/** What a reader would try first with each example. */
const trials: Record<string, { method?: 'GET' | 'POST', url: string, answer: RegExp }> = {
  redis: { method: 'POST', url: '/visits', answer: /"visits":1/ },
  'rate-limit': { url: '/', answer: /world/ },
  health: { url: '/health', answer: /"redis:responseTime":\[\{"observedValue":[\d.]+/ },
  metrics: { url: '/metrics', answer: /fastify_redis_up\{client="default",service="shop"\} 1/ },
  cache: { url: '/products/1', answer: /1/ },
  'data-cache': { url: '/products/1', answer: /Teapot/ },
  session: { method: 'POST', url: '/logout', answer: /./ },
  events: { method: 'POST', url: '/orders/teapot', answer: /teapot/ },
  lock: { method: 'POST', url: '/invoices/1', answer: /"number":1/ },
  streams: { method: 'POST', url: '/orders/ann/tea', answer: /"id"/ },
  idempotency: { method: 'POST', url: '/payments', answer: /"payment":1/ }
}

for (const [name, { method = 'GET', url, answer }] of Object.entries(trials)) {
  t.test(`examples/${name}.ts runs`, async t => {
    const { build } = await import(`../../examples/${name}.ts`)
    const app = await build()
    t.teardown(() => app.close())
    const response = await app.inject({ method, url })
    t.ok(response.statusCode < 300, `${method} ${url} is ${response.statusCode}`)
    t.match(response.body, answer)
  })
}

t.test('examples/data-cache.ts shows what is written through, and counts views behind its answers', async t => {
  const { build } = await import('../../examples/data-cache.js')
  const app = await build()
  t.teardown(() => app.close())
  const get = async (url: string) => (await app.inject({ url })).json()
  t.equal((await app.inject({ url: '/products/2' })).statusCode, 404)
  t.equal((await get('/products/1')).name, 'Teapot')
  const changed = await app.inject({ method: 'PUT', url: '/products/2', payload: { name: 'Kettle' } })
  t.equal(changed.json().name, 'Kettle')
  t.equal((await get('/products/2')).name, 'Kettle', 'also where "not found" was kept')
  await until('the views are counted', async () => (await get('/views')).products[1]?.views === 1)
  t.match(await get('/views'), { backlog: 0, deadLetters: 0 })
})

t.test('examples/events.ts shows browsers the orders of another instance', async t => {
  const { build } = await import('../../examples/events.js')
  const [one, two] = [await build(), await build()]
  t.teardown(async () => { await Promise.all([one.close(), two.close()]) })
  const response = await one.inject({ url: '/live', payloadAsStream: true })
  let text = ''
  response.stream().on('data', chunk => { text += chunk })
  await two.inject({ method: 'POST', url: '/orders/kettle' })
  await until('it is shown', () => /event: orders:placed\ndata: .*kettle/.test(text))
  await until('it is heard', async () => (await one.inject('/heard')).json().heard === 1)
})

t.test('examples/lock.ts makes one invoice at a time', async t => {
  const { build } = await import('../../examples/lock.js')
  const app = await build()
  t.teardown(() => app.close())
  const made = await Promise.all(Array.from({ length: 10 }, async () => (await app.inject({ method: 'POST', url: '/invoices/7' })).json().number))
  t.same(made.sort((a, b) => a - b), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  t.equal((await app.inject({ method: 'POST', url: '/report' })).statusCode, 200)
})

t.test('the tests of examples/testing.ts pass', async t => {
  const { tests } = await import('../../examples/testing.js')
  for (const [name, run] of Object.entries(tests)) await t.resolves(run(), name)
})
