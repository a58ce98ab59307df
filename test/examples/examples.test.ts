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
  session: { method: 'POST', url: '/logout', answer: /./ }
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
