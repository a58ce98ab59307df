import t from 'tap'
import { upTo } from '../helpers/cache/factories.js'
import { createTestApp, startRedis } from '../helpers/index.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

t.test('while 100,000 tags are invalidated, no request exceeds its deadline, and the circuit stays closed', async t => {
  const server = await startRedis()
  const { span } = await startHeartbeat(t)
  const { app, warnings } = await createTestApp(t, {
    store: server,
    clock: 'real',
    plugins: { cache: {}, rateLimit: { max: 100_000, timeWindow: '1m', onStoreError: 'closed' } },
    routes: app => app.get('/', async () => 'ok')
  })
  const tags = upTo(100_000).map(i => `tag-${i}`)
  const bad: number[] = []
  let requests = 0
  const progress = { isDone: false }
  const judged: Array<Promise<void>> = []
  const visit = async (): Promise<void> => {
    while (!progress.isDone) {
      const request = span()
      const { statusCode } = await app.inject('/')
      judged.push(request.within(150, 'a limited request'))
      if (statusCode !== 200) bad.push(statusCode)
      requests++
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
  const visitor = visit()
  await app.cache.set('k', 1, { tags: ['tag-99999'] })
  await app.cache.invalidateTags(tags)
  progress.isDone = true
  await visitor
  await Promise.all(judged)
  t.same(bad, [])
  t.equal(await app.cache.get('k'), undefined)
  t.ok(requests > 10, `${requests} requests`)
  t.equal(app.cache.stats().storeErrors, 0)
  t.same(warnings(), [])
})
