import Fastify from 'fastify'
import t from 'tap'
import { pluginError } from '../../plugins/shared/errors.js'

t.test('an error of 503 has the client come again soon, by a header that a program may change; others do not', async t => {
  const UnavailableError = pluginError('cache', 'TEST_UNAVAILABLE', 'not now', 503)
  const ConflictError = pluginError('cache', 'TEST_CONFLICT', 'not so', 409)
  const app = Fastify()
  t.teardown(() => app.close())
  app.get('/unavailable', async () => { throw new UnavailableError() })
  app.get('/later', async () => { throw Object.assign(new UnavailableError(), { headers: { 'retry-after': '60' } }) })
  app.get('/conflict', async () => { throw new ConflictError() })
  const answers = await Promise.all(['/unavailable', '/later', '/conflict', '/unavailable'].map(url => app.inject(url)))
  t.same(answers.map(({ statusCode, headers }) => [statusCode, headers['retry-after']]), [[503, '1'], [503, '60'], [409, undefined], [503, '1']])
  t.match(answers[0]?.json(), { code: 'FST_REDIS_SUITE_CACHE_TEST_UNAVAILABLE', message: 'cache: not now' })
  t.notOk(Object.keys(new UnavailableError()).includes('headers'), 'no log tells it')
})
