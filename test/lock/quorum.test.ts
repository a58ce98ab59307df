import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { startRedis, until } from '../helpers/index.js'
import { connect, openLocks } from '../helpers/lock-app.js'

const UNAVAILABLE = { code: 'FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE', statusCode: 503 }
const LOST = { code: 'FST_REDIS_SUITE_LOCK_LOST', statusCode: 500 }
const LOCKED = { code: 'FST_REDIS_SUITE_LOCK_LOCKED' }
const aborted = async (signal: AbortSignal) => { if (!signal.aborted) await new Promise(resolve => signal.addEventListener('abort', resolve)) }
const openNodes = async () => await Promise.all([startRedis(), startRedis(), startRedis()])

t.test('with one node of three dead or hanging all is as before, and quick; with two there is no lock', async t => {
  const nodes = await openNodes()
  const { locks } = await openLocks(t, { nodes: nodes.map(({ url }) => connect(t, url)), timeout: 200 })
  await locks.using('a', () => {})
  nodes[0]!.pause()
  const begun = performance.now()
  await locks.using('a', { ttl: 300 }, async signal => {
    await sleep(700)
    t.equal(signal.aborted, false)
  })
  t.ok(performance.now() - begun < 1000, 'the one that hangs keeps nobody waiting')
  await nodes[0]!.kill()
  await using held = await locks.acquire('b')
  await t.rejects(locks.acquire('b', { wait: 0 }), LOCKED)
  await nodes[1]!.kill()
  await t.rejects(locks.using('a', () => t.fail('inside')), UNAVAILABLE)
  await t.rejects(held.extend(), UNAVAILABLE)
})

t.test('tokens grow whichever two of three nodes answer', async t => {
  const nodes = await openNodes()
  const { locks } = await openLocks(t, { nodes: nodes.map(({ url }) => connect(t, url)), timeout: 500 })
  // So that the clock does not help: one node is far ahead of the others, and what it gave out must reach these.
  await nodes[0]!.client().set('fastify:lock:fence:{a}', (Date.now() + 3_600_000) * 1000)
  const tokens: number[] = []
  for (const dead of [2, 0, 1, 0, 2, 1]) {
    nodes[dead]!.pause()
    await until('a lock is had', async () => await locks.using('a', async (_signal, { token }) => { tokens.push(token); return true }))
    nodes[dead]!.resume()
    await until('it is free', async () => (await Promise.all(nodes.map(async node => await node.client().exists('fastify:lock:held:{a}')))).every(n => n === 0))
  }
  t.ok(tokens.every((token, i) => i === 0 || token > tokens[i - 1]!), tokens.join())
  t.ok(tokens[0]! > (Date.now() + 3_000_000) * 1000)
})

t.test('a holder who is left with a minority is told', async t => {
  const nodes = await openNodes()
  const { locks } = await openLocks(t, { nodes: nodes.map(({ url }) => connect(t, url)), timeout: 200 })
  const lost = locks.using('a', { ttl: 1000 }, async signal => {
    await Promise.all([nodes[0]!.restart(), nodes[1]!.restart()])
    await aborted(signal)
  })
  await t.rejects(lost, LOST)
})
