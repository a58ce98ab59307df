import Fastify from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { circuitOf, guardRedis, releaseCircuit } from '../../plugins/shared/guard.js'
import { startProxy, startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

async function guarded (t: Test, timeout: number) {
  const server = await startRedis()
  const client = new Redis(server.url, { retryStrategy: () => 50, commandTimeout: 60_000, maxRetriesPerRequest: 0 })
  client.on('error', () => {})
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  return { server, client, guard: guardRedis(client, app.log, timeout), lines, app }
}

function standStill (ms: number) {
  const until = performance.now() + ms
  while (performance.now() < until);
}

t.test('a Redis that hangs costs the deadline at first and nothing after, and is used again when it is back', async t => {
  const { server, client, guard, lines } = await guarded(t, 80)
  t.equal(await guard.run(() => client.set('key', 'value')), 'OK')

  server.pause()
  const sinceStart = stopwatch()
  await Promise.all(Array.from({ length: 20 }, () => t.rejects(guard.run(() => client.get('key')), { code: 'FST_REDIS_SUITE_REDIS_TIMEOUT', statusCode: 503 })))
  t.ok(sinceStart() < 400)

  const open = performance.now()
  for (let i = 0; i < 200; i++) {
    await t.rejects(guard.run(() => client.get('key')), { code: 'FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN' })
  }
  t.ok((performance.now() - open) / 200 < 5, 'an open circuit answers at once')
  t.match(circuitOf(client), { state: 'open', opened: 1 })

  server.resume()
  await until('the circuit closes', () => guard.circuit.state === 'closed')
  t.equal(await guard.run(() => client.get('key')), 'value')
  t.same(lines.map(line => line['circuit']), ['open', 'closed'], 'one line a change')
})

t.test('a Redis that was killed is used again within 3 s of being back', async t => {
  const { server, client, guard } = await guarded(t, 80)
  await guard.run(() => client.ping())
  await server.kill()
  for (let i = 0; i < 6; i++) await t.rejects(guard.run(() => client.get('key')))
  t.equal(guard.circuit.state, 'open')
  await server.restart()
  const sinceBack = stopwatch()
  await until('the circuit closes', () => guard.circuit.state === 'closed')
  t.ok(sinceBack() < 3000)
})

t.test('errors that Redis answers quickly do not open the circuit', async t => {
  const { client, guard } = await guarded(t, 80)
  await client.set('text', 'value')
  for (let i = 0; i < 20; i++) await t.rejects(guard.run(() => client.lpush('text', 'x')), /WRONGTYPE/)
  t.equal(guard.circuit.state, 'closed')
})

t.test('a process that is late itself does not take it for a failure of Redis', async t => {
  const { client, guard } = await guarded(t, 20)
  await guard.run(() => client.ping())
  for (let i = 0; i < 10; i++) {
    const answer = guard.run(() => client.ping())
    // Lets the command go out, then keeps the event loop busy beyond the deadline.
    await new Promise(resolve => setImmediate(resolve))
    standStill(60)
    t.equal(await answer, 'PONG')
  }
  t.equal(guard.circuit.failures, 0)
})

t.test('nor is it one where what was asked had not even left the process, and Redis takes its time', async t => {
  const { server, app } = await guarded(t, 80)
  const proxy = await startProxy(server.port)
  const client = new Redis(proxy.port, proxy.host, { enableAutoPipelining: true })
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  const guard = guardRedis(client, app.log, 80)
  await guard.run(() => client.ping())
  proxy.delay(30)
  for (let i = 0; i < 10; i++) {
    const answer = guard.run(() => client.ping())
    standStill(200)
    t.equal(await answer, 'PONG')
  }
  t.equal(guard.circuit.failures, 0)
})

t.test('plugins on one client share its circuit, and each keeps its own deadline', async t => {
  const { server, client, guard, app } = await guarded(t, 50)
  const patient = guardRedis(client, app.log, 500)
  await guard.run(() => client.ping())
  server.pause()
  const slow = patient.run(() => client.get('key'))
  for (let i = 0; i < 5; i++) await t.rejects(guard.run(() => client.get('key')))
  await t.rejects(patient.run(() => client.get('key')), { code: 'FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN' })
  server.resume()
  t.equal(await slow, null)
})

t.test('for a user that may not PING the circuit closes all the same', async t => {
  const server = await startRedis({ acl: ['app on >secret ~* +@all -ping'] })
  const client = new Redis(server.port, server.host, { username: 'app', password: 'secret' })
  const app = Fastify()
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  const guard = guardRedis(client, app.log, 80)
  for (let i = 0; i < 5; i++) await t.rejects(guard.run(async () => { throw new Error('lost') }), { message: 'lost' })
  t.equal(guard.circuit.state, 'open')
  await until('it is closed', () => guard.circuit.state === 'closed')
  t.equal(await guard.run(() => client.set('key', 'value')), 'OK')
})
