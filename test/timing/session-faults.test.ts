import t from 'tap'
import { createSessionApp, Browser } from '../helpers/session/session-app.js'
import { startProxy, startRedis } from '../helpers/index.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'
import { createMemoryStore } from '../../plugins/session/store/memory-store.js'
import { createRedisStore } from '../../plugins/session/store/redis-store.js'
import { SessionStatsCounter } from '../../plugins/session/stats.js'
import { UserIndex } from '../../plugins/session/store/user-index.js'
import { forEachStore, openStore } from '../helpers/app/store.js'

const TIMEOUT = 100
/** See docs/plugins/redis.md, "How an outage differs from a stall". */
const PATIENCE = 2000
const HOUR = 3_600_000

t.test('while Redis hangs, 20 concurrent requests are 503 within two timeouts', async t => {
  const server = await startRedis()
  const { app } = await createSessionApp(t, { store: { url: server.url }, clock: 'real', session: { timeout: TIMEOUT } })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const { span } = await startHeartbeat(t)
  server.pause()
  const hung = span()
  const replies = await Promise.all(Array.from({ length: 20 }, () => app.inject({ url: '/', headers: { cookie: user.cookie ?? '' } })))
  await hung.withinPatiently(2 * TIMEOUT, PATIENCE, '20 replies')
  t.same(replies.map(reply => reply.statusCode), replies.map(() => 503))
  server.resume()
})

t.test('when the connection is lost, a request with a session is 503 within two timeouts', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const { app } = await createSessionApp(t, { store: { url: `redis://127.0.0.1:${proxy.port}` }, clock: 'real', session: { timeout: TIMEOUT } })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const { span } = await startHeartbeat(t)
  // No server listens there.
  proxy.target(1)
  proxy.sever()
  const lost = span()
  const reply = await user.send('POST', '/set', { a: 2 })
  await lost.within(2 * TIMEOUT, 'the reply')
  t.equal(reply.statusCode, 503)
})

forEachStore(['memory', 'redis', 'cluster'], name => {
  t.test(`${name}: while the 10,000 sessions of a user end, others are read within 300 ms`, async t => {
    const { port, prefix } = await openStore(t, name)
    const timeouts = { idleTimeout: HOUR, absoluteTimeout: HOUR }
    const store = port === undefined ? createMemoryStore(20_000, timeouts) : createRedisStore(port, prefix, timeouts)
    const users = new UserIndex(store, operation => operation(), { maxPerUser: 0, onMaxPerUser: 'drop-oldest' }, new SessionStatsCounter(HOUR))
    const handles = Array.from({ length: 10_000 }, (_, i) => `h${i}`)
    for (let at = 0; at < handles.length; at += 1000) {
      await Promise.all(handles.slice(at, at + 1000).map(async handle => {
        await store.write(handle, { set: {}, isSealed: false, delete: [], create: true, from: '', text: '{}', owner: { user: 'u', device: 'd' } })
        await users.enter('u', handle)
      }))
    }
    const { span } = await startHeartbeat(t)
    const state = { isOver: false }
    const slowest = { ms: 0 }
    const others = (async () => {
      while (!state.isOver) {
        const read = span()
        await store.read('another')
        const { elapsed, stalled } = await read.judge()
        slowest.ms = Math.max(slowest.ms, elapsed - stalled)
      }
    })()
    t.equal(await users.destroyAll('u', 'h7'), 9_999)
    state.isOver = true
    await others
    t.ok(slowest.ms <= 300, `the slowest read took ${Math.round(slowest.ms)} ms`)
    t.same((await users.list('u')).map(info => info.handle), ['h7'])
  })
})
