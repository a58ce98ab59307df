import t from 'tap'
import { advanceWhile, createTestApp, startRedis } from '../helpers/index.js'

t.test('each 503 of a store that fails has the reason as its cause, without the arguments of a command', async t => {
  const server = await startRedis()
  const failures: Error[] = []
  const { app, clock } = await createTestApp(t, {
    store: server,
    plugins: { session: { cookie: { secure: false } }, rateLimit: { global: false, onStoreError: 'closed' }, idempotency: { scope: () => 'caller' }, cache: {}, lock: {}, events: {} },
    routes (app) {
      app.addHook('onError', async (_request, _reply, error) => { failures.push(error) })
      app.get('/session', async request => { Object.assign(request.session, { user: 'secret-user' }) })
      app.get('/limited', { config: { rateLimit: { max: 1, keyGenerator: () => 'secret-key' } } }, async () => 'x')
      app.post('/idempotent', { config: { idempotency: true } }, async () => 'x')
      app.get('/set', async () => await app.cache.set('secret-key', 1, { ttl: '1m' }))
      app.get('/lock', async () => await app.locks.using('secret-lock', async () => 'x'))
      app.get('/publish', async () => await app.events.publish('secret-channel', { a: 'secret-value' }))
    }
  })
  const ask = async (method: 'GET' | 'POST', url: string) => {
    const headers = { 'idempotency-key': 'secret-key' }
    const { value } = await advanceWhile(clock, app.inject({ method, url, headers }))
    return [url, value.statusCode, value.body.includes('secret')]
  }
  // An error reply, which has the command, and then an outage, which has none.
  const admin = server.client()
  await admin.config('SET', 'min-replicas-to-write', '1')
  for (const stage of ['refuses writes', 'is gone']) {
    if (stage === 'is gone') await server.kill()
    failures.length = 0
    const routes = [['GET', '/session'], ['GET', '/limited'], ['POST', '/idempotent'], ['GET', '/set'], ['GET', '/lock'], ...stage === 'is gone' ? [['GET', '/publish']] : []] as Array<['GET', string]>
    for (const [method, url] of routes) t.same(await ask(method, url), [url, 503, false], `${url} while Redis ${stage}`)
    t.equal(failures.length, routes.length)
    for (const { message, cause } of failures) {
      t.ok(cause instanceof Error && cause.message.length > 10, `${message}: ${String(cause)}`)
      t.notOk('command' in Object(cause), message)
      t.notMatch(JSON.stringify(cause, Object.getOwnPropertyNames(cause)), 'secret')
    }
  }
})
