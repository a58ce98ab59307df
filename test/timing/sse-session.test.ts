import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { openSse } from '../helpers/events/sse-client.js'
import { createTestApp, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { Browser } from '../helpers/session/session-app.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

const HEARTBEAT_MS = 500
const END_MS = 1000

async function start (t: Test, store: NonNullable<TestAppOptions['store']>, session: Partial<SessionPluginOptions> = {}, redis?: false) {
  const { apps } = await createTestApp(t, {
    store,
    clock: 'real',
    instances: store === 'memory' ? 1 : 2,
    plugins: { session: { timeout: '10s', ...session }, events: { timeout: '10s', ...redis === false && { redis } } },
    routes: app => {
      app.get('/events', async (request, reply) => await app.events.sse(request, reply, 'news', { heartbeat: HEARTBEAT_MS }))
      app.get('/', async () => '')
      app.post('/login', async request => { await request.login('ann') })
    }
  })
  const [here, there = here] = apps as [FastifyInstance, FastifyInstance?]
  const user = new Browser(here)
  await user.send('POST', '/login')
  return { here, there, user, stream: await openSse(t, here, '/events', user.cookie) }
}

for (const store of ['memory', 'redis', 'cluster'] as const) {
  t.test(`${store}: a stream ends within a second after its session was destroyed on another instance`, async t => {
    const { span } = await startHeartbeat(t)
    const { there, stream } = await start(t, store)
    const end = span()
    await there.sessions.destroyAll('ann')
    await until('the stream ends', () => stream.isOver)
    await end.within(END_MS, 'the end of the stream')
  })

  t.test(`${store}: a stream ends within a second after its session's time has passed`, async t => {
    const { span } = await startHeartbeat(t)
    const { here, user, stream } = await start(t, store, { absoluteTimeout: 2000 })
    t.equal(stream.isOver, false)
    await until('the session has ended', async () => (await here.sessions.count('ann')) === 0)
    const end = span()
    await until('the stream ends', () => stream.isOver)
    await end.within(END_MS, 'the end of the stream')
    t.ok(user.cookie)
  })
}

t.test('a stream ends within a heartbeat while its instance cannot subscribe', async t => {
  const { span } = await startHeartbeat(t)
  const server = await startRedis()
  await server.client().call('ACL', 'SETUSER', 'limited', 'on', '>limited', '~*', 'resetchannels', '+@all')
  const { there, stream } = await start(t, { url: server.url.replace('//', '//limited:limited@') }, {}, false)
  const end = span()
  await there.sessions.destroyAll('ann')
  await until('the stream ends', () => stream.isOver)
  await end.within(HEARTBEAT_MS + 500, 'the end of the stream')
})

t.test('a client that reads nothing is disconnected within a second after its session has ended', async t => {
  const { span } = await startHeartbeat(t)
  const { here, stream } = await start(t, 'memory')
  stream.pause()
  for (let i = 0; i < 5; i++) await here.events.publish('news', 'x'.repeat(200_000))
  const end = span()
  await here.sessions.destroyAll('ann')
  await until('the connection is closed', async () => await new Promise(resolve => { here.server.getConnections((_, count) => resolve(count === 0)) }))
  await end.within(END_MS, 'the end of the connection')
})
