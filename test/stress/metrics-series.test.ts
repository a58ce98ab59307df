import Fastify from 'fastify'
import t from 'tap'
import { metrics } from '../../plugins/metrics/index.js'
import { requestAtRandom } from '../helpers/metrics/random-requests.js'

t.test('10,000 requests with random URLs, methods and statuses create no more series than routes, methods and statuses allow', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(metrics, { maxRoutes: 5, defaultMetrics: false })
  await requestAtRandom(t, app, 10_000)
})
