import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { systemClock } from '../../plugins/shared/plugin/clock.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { circuitOf, guardRedis, releaseCircuit } from '../../plugins/shared/redis/guard.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { advanceUntil, sharedRedis, startRedis, until } from '../helpers/index.js'

const TIMEOUT = { code: 'FST_REDIS_SUITE_REDIS_TIMEOUT', statusCode: 503 }
const CIRCUIT_OPEN = { code: 'FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN' }

async function guarded (t: Test, timeout: number) {
  const server = await startRedis()
  const client = new Redis(server.url, { retryStrategy: () => 50, commandTimeout: 60_000, maxRetriesPerRequest: 0 })
  client.on('error', () => {})
  const { logger, lines } = collectLog()
  const { log } = Fastify({ loggerInstance: logger })
  const clock = createTestClock()
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  const guard = guardRedis(portOf(client), log, timeout, 'redis', clock)
  await guard.run(() => client.ping())
  return { server, client, guard, lines, log, clock }
}

const failures = async (calls: Array<Promise<unknown>>): Promise<Array<Record<string, unknown>>> =>
  (await Promise.allSettled(calls)).map(result => result.status === 'rejected' ? result.reason : { resolved: result.value })

/** Blocks the event loop. */
function block (ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

t.test('commands to a Redis that hangs time out at first, later ones are refused at once, and Redis is used again when it is back', async t => {
  const { server, client, guard, lines, clock } = await guarded(t, 80)
  await guard.run(() => client.set('key', 'value'))
  const get = () => guard.run(() => client.get('key'))

  server.pause()
  let settled = 0
  const asked = Array.from({ length: 20 }, () => get().finally(() => { settled++ }))
  const timedOut = failures(asked)
  await clock.advance(79)
  t.equal(settled, 0, 'not before the deadline')
  await clock.advance(1)
  t.match(await timedOut, Array.from({ length: 20 }, () => TIMEOUT))
  t.match(circuitOf(client), { state: 'late', opened: 0 })
  t.match(await failures(Array.from({ length: 200 }, get)), Array.from({ length: 200 }, () => CIRCUIT_OPEN))
  t.equal(clock.now() - Number(circuitOf(client)?.since), 0, 'no time was added')
  await clock.advance(700)
  t.match(circuitOf(client), { state: 'open', opened: 1 }, 'nothing came back')

  server.resume()
  await advanceUntil(clock, 'the circuit closes', () => guard.circuit.state === 'closed')
  t.equal(await get(), 'value')
  t.same(lines.map(line => line['circuit']), ['late', 'open', 'late', 'closed'], 'one line for each change, and its late answer is the first to come')
})

t.test('a Redis that was killed is used again as soon as the client is connected to it', async t => {
  const { server, client, guard } = await guarded(t, 80)
  await server.kill()
  const errors = await failures(Array.from({ length: 6 }, () => guard.run(() => client.get('key'))))
  t.ok(errors.every(error => error instanceof Error))
  t.equal(guard.circuit.state, 'open')
  await server.restart()
  // The clock does not advance, so that no probe is due.
  await until('the circuit closes', () => guard.circuit.state === 'closed')
  t.equal(await guard.run(() => client.ping()), 'PONG')
})

t.test('error replies of Redis do not open the circuit', async t => {
  const { client, guard } = await guarded(t, 80)
  await client.set('text', 'value')
  t.match(await failures(Array.from({ length: 20 }, () => guard.run(() => client.lpush('text', 'x')))), Array.from({ length: 20 }, () => ({ message: /WRONGTYPE/ })))
  t.match(guard.circuit, { state: 'closed', failures: 0 })
})

/** A guard with the system's clock, and two ends of a connection within this process, so that no other one has a part in the time it takes. */
async function connected (t: Test, timeout: number) {
  const { url } = await sharedRedis()
  const client = new Redis(url)
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const near = connect((listener.address() as AddressInfo).port, '127.0.0.1').setNoDelay()
  const [far] = await once(listener, 'connection') as [Socket]
  t.teardown(() => { near.destroy(); far.destroy(); listener.close() })
  return { guard: guardRedis(portOf(client), Fastify().log, timeout, 'redis', systemClock), near, far: far.setNoDelay() }
}

t.test('a reply that arrived while the event loop was blocked beyond the deadline is no failure', async t => {
  const { guard, near, far } = await connected(t, 20)
  const answers: string[] = []
  for (let i = 0; i < 10; i++) {
    const answer = guard.run(async () => String((await once(near, 'data'))[0]))
    far.write(`answer ${i}`)
    block(60)
    answers.push(await answer)
  }
  t.same(answers, Array.from({ length: 10 }, (_, i) => `answer ${i}`))
  t.equal(guard.circuit.failures, 0)
})

t.test('the event loop blocked beyond the deadline before a command was sent is no failure, and leaves Redis its time', async t => {
  const { guard, near, far } = await connected(t, 80)
  far.on('data', () => { setTimeout(() => far.write('answer'), 30) })
  const answers: string[] = []
  for (let i = 0; i < 5; i++) {
    const answer = guard.run(async () => {
      // As the client's pipeline does.
      setImmediate(() => { near.write('command') })
      return String((await once(near, 'data'))[0])
    })
    block(200)
    answers.push(await answer)
  }
  t.same(answers, Array.from({ length: 5 }, () => 'answer'))
  t.equal(guard.circuit.failures, 0)
})

t.test('plugins on one client share its circuit, and each keeps its own deadline', async t => {
  const { server, client, guard, log, clock } = await guarded(t, 50)
  const patient = guardRedis(portOf(client), log, 500, 'redis', clock)
  server.pause()
  const slow = patient.run(() => client.get('key'))
  const timedOut = failures(Array.from({ length: 5 }, () => guard.run(() => client.get('key'))))
  await clock.advance(50)
  t.match(await timedOut, Array.from({ length: 5 }, () => TIMEOUT))
  await t.rejects(patient.run(() => client.get('key')), CIRCUIT_OPEN)
  server.resume()
  t.equal(await slow, null)
})

t.test('for a user that may not PING the circuit closes all the same', async t => {
  const server = await startRedis({ acl: ['app on >secret ~* +@all -ping'] })
  const client = new Redis(server.port, server.host, { username: 'app', password: 'secret' })
  t.teardown(() => { releaseCircuit(client); client.disconnect() })
  const clock = createTestClock()
  const guard = guardRedis(portOf(client), Fastify().log, 80, 'redis', clock)
  t.match(await failures(Array.from({ length: 5 }, () => guard.run(async () => { throw new Error('lost') }))), Array.from({ length: 5 }, () => ({ message: 'lost' })))
  t.equal(guard.circuit.state, 'open')
  await advanceUntil(clock, 'the circuit closes', () => guard.circuit.state === 'closed')
  t.equal(await guard.run(() => client.set('key', 'value')), 'OK')
})
