import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { circuitOf, redis } from '../../plugins/redis/index.js'
import { session } from '../../plugins/session/index.js'
import { closeApp } from '../helpers/app/test-app.js'
import { newPrefix, sharedRedis, until } from '../helpers/index.js'
import { Browser, SECRET } from '../helpers/session/session-app.js'

/** A proxy that holds back what Redis answers, and passes it on piece by piece. */
async function startHoldingProxy (t: Test, port: number) {
  const held: Array<() => void> = []
  let isHolding = false
  const sockets: Socket[] = []
  const server = createServer({ noDelay: true }, client => {
    const target = connect({ port, host: '127.0.0.1', noDelay: true })
    sockets.push(client, target)
    client.on('error', () => {}).on('close', () => target.destroy()).pipe(target)
    target.on('error', () => {}).on('data', chunk => {
      if (isHolding) held.push(() => client.write(chunk))
      else client.write(chunk)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => { for (const socket of sockets) socket.destroy(); server.close() })
  return {
    port: (server.address() as AddressInfo).port,
    held,
    hold (isOn: boolean) { isHolding = isOn },
    pass () { held.shift()?.() }
  }
}

t.test('while replies of Redis keep coming, however late, a session is served late, and not 503', async t => {
  const proxy = await startHoldingProxy(t, (await sharedRedis()).port)
  const clock = createTestClock()
  // Not by the harness, whose own connection would be held back as well.
  const app = Fastify()
  t.teardown(() => closeApp(app, clock))
  await app.register(redis, { host: '127.0.0.1', port: proxy.port, prefix: newPrefix(), commandTimeout: 600_000, clock })
  await app.register(session, { secret: SECRET, clock })
  app.get('/', async request => ({ ...request.session, cookie: undefined }))
  app.post<{ Body: object }>('/set', async request => { Object.assign(request.session, request.body) })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  proxy.hold(true)
  // What others asked for before.
  const before = 6
  const pings = []
  for (let i = 1; i <= before; i++) {
    pings.push(app.redis.ping())
    await until('the reply is held back', () => proxy.held.length === i)
  }
  let isAnswered = false
  const answered = user.send('GET', '/').finally(() => { isAnswered = true })
  await until('the session is asked for', () => proxy.held.length === before + 1)
  for (const ping of pings) {
    await clock.advance(100)
    t.equal(isAnswered, false)
    proxy.pass()
    await ping
  }
  // Its script may have to be sent, which is one more reply.
  await until('the session is served', async () => {
    if (proxy.held.length > 0) {
      await clock.advance(100)
      proxy.pass()
    }
    return isAnswered
  })
  t.match(await answered, { statusCode: 200, body: /"a":1/ })
  t.match(circuitOf(app.redis), { state: 'closed', opened: 0 })
  proxy.hold(false)
})
