import t from 'tap'
import { startRedis } from '../helpers/index.js'

const server = await startRedis()
process.env['REDIS_URL'] = server.url
process.env['LOG_LEVEL'] = 'silent'

/** What a reader would try first with each example. */
const trials: Record<string, { method?: 'GET' | 'POST', url: string, answer: RegExp }> = {
  redis: { method: 'POST', url: '/visits', answer: /"visits":1/ },
  'rate-limit': { url: '/', answer: /world/ },
  health: { url: '/health', answer: /"redis":\{"status":"pass"/ },
  cache: { url: '/products/1', answer: /1/ },
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
