import Fastify from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { portOf } from '../../plugins/shared/redis/client.js'
import { guardRedis, releaseCircuit } from '../../plugins/shared/redis/guard.js'
import { startRedis, until } from '../helpers/index.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

const TIMEOUT_MS = 80

async function guarded (t: Test) {
  const server = await startRedis()
  const client = new Redis(server.url, { retryStrategy: () => 50, commandTimeout: 60_000, maxRetriesPerRequest: 0 })
  client.on('error', () => {})
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  const guard = guardRedis(portOf(client), Fastify().log, TIMEOUT_MS)
  await guard.run(() => client.ping())
  const { span } = await startHeartbeat(t)
  return { server, client, guard, span }
}

t.test('a Redis that hangs costs the deadline once, and less than 5 ms each when the circuit is open', async t => {
  const { server, client, guard, span } = await guarded(t)
  server.pause()
  const hung = span()
  const codes = await Promise.all(Array.from({ length: 20 }, () => guard.run(() => client.get('key')).catch((error: { code: string }) => error.code)))
  await hung.within(TIMEOUT_MS + 50, '20 commands to a Redis that hangs')
  t.same([...new Set(codes)], ['FST_REDIS_SUITE_REDIS_TIMEOUT'])

  const open = span()
  for (let i = 0; i < 200; i++) await t.rejects(guard.run(() => client.get('key')), { code: 'FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN' })
  await open.within(200 * 5, '200 commands while the circuit is open')
  server.resume()
})

t.test('a Redis that hung or was killed is used again within 3 s of being back', async t => {
  const { server, client, guard, span } = await guarded(t)
  const faults = [
    { name: 'hung', begin: () => server.pause(), end: () => server.resume() },
    { name: 'was killed', begin: () => server.kill(), end: () => server.restart() }
  ]
  for (const { name, begin, end } of faults) {
    await begin()
    await until('the circuit is open', async () => {
      await guard.run(() => client.get('key')).catch(() => {})
      return guard.circuit.state === 'open'
    })
    await end()
    const back = span()
    await until('the circuit closes', () => guard.circuit.state === 'closed')
    await back.within(3000, `the circuit closes after Redis ${name}`)
    t.equal(await guard.run(() => client.ping()), 'PONG')
  }
})
