import Fastify from 'fastify'
import t from 'tap'
import { cache } from '../../plugins/cache/index.js'
import { until } from '../helpers/index.js'

t.test('an answer that is confirmed each time keeps its type, is told to be confirmed, and hands nobody another one\'s cookie', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(cache, { redis: false })
  app.get('/a', { config: { cache: { ttl: 'headers' } } }, async (request, reply) => {
    reply.header('cache-control', 'max-age=0').header('etag', '"x"')
    if (request.headers['if-none-match'] === '"x"') return reply.code(304).header('set-cookie', 'sid=secret').send('')
    return { a: 1 }
  })
  await app.inject('/a')
  for (let times = 1; times <= 3; times++) {
    await until('it is stored', () => app.cache.stats().stored === times)
    const { statusCode, headers, body } = await app.inject('/a')
    t.same([statusCode, headers['x-cache'], headers['content-type'], body], [200, 'REVALIDATED', 'application/json; charset=utf-8', '{"a":1}'])
  }
  await until('it is stored', () => app.cache.stats().stored === 4)
  const known = await app.inject({ url: '/a', headers: { 'if-none-match': '"x"' } })
  t.same([known.statusCode, known.body, known.headers['set-cookie']], [304, '', 'sid=secret'], 'whose request it was gets it, and nobody else')
})
