import t from 'tap'
import { createTestApp, startRedis } from '../helpers/index.js'
import { byAddress, ON, post } from '../helpers/idempotency/requests.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

/** See docs/plugins/redis.md, "How an outage differs from a stall". */
const PATIENCE = 2000

t.test('while Redis hangs or is unreachable a request with a key is refused within the timeout', async t => {
  const { span } = await startHeartbeat(t)
  const server = await startRedis()
  const { app } = await createTestApp(t, {
    store: server,
    clock: 'real',
    plugins: { idempotency: { timeout: '200ms', scope: byAddress } },
    routes: app => { app.post('/', ON, async () => 'done') }
  })
  t.equal((await post(app, '/', 'before')).statusCode, 200)
  for (const break_ of [() => server.pause(), async () => await server.kill()]) {
    await break_()
    for (let i = 0; i < 8; i++) {
      const sinceAsked = span()
      t.equal((await post(app, '/', 'k')).statusCode, 503)
      await sinceAsked.withinPatiently(400, PATIENCE, 'the refusal')
    }
  }
})
