import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { startProxy, startRedis, until } from '../helpers/index.js'
import { connect, openLocks } from '../helpers/lock/lock-app.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const UNAVAILABLE = { code: 'FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE', statusCode: 503 }
const LOST = { code: 'FST_REDIS_SUITE_LOCK_LOST', statusCode: 503 }
const LOCKED = { code: 'FST_REDIS_SUITE_LOCK_LOCKED' }
const aborted = async (signal: AbortSignal) => { if (!signal.aborted) await new Promise(resolve => signal.addEventListener('abort', resolve)) }
const openNodes = async () => await Promise.all([startRedis(), startRedis(), startRedis()])

t.test('with one node of three dead or hanging all is as before, and quick; with two there is no lock', async t => {
  const nodes = await openNodes()
  const { locks } = await openLocks(t, { nodes: nodes.map(({ url }) => connect(t, url)), timeout: 200 })
  await locks.using('a', () => {})
  nodes[0]!.pause()
  const sinceStart = stopwatch()
  await locks.using('a', { ttl: 300 }, async signal => {
    await sleep(700)
    t.equal(signal.aborted, false)
  })
  t.ok(sinceStart() < 1000, 'the one that hangs keeps nobody waiting')
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
    // Two have said yes by now: what the third has not answered yet would be asked of it again when it is back, and make a majority.
    await until('all have it', async () => (await Promise.all(nodes.map(async node => await node.client().exists('fastify:lock:held:{a}')))).every(n => n === 1))
    await Promise.all([nodes[0]!.restart(), nodes[1]!.restart()])
    await aborted(signal)
  })
  await t.rejects(lost, LOST)
})

t.test('with a slow node, and one that hangs again and again, never two are inside, and tokens are in order', async t => {
  const nodes = await openNodes()
  const proxy = await startProxy(nodes[0]!.port)
  proxy.delay(30)
  const urls = [`redis://127.0.0.1:${proxy.port}`, nodes[1]!.url, nodes[2]!.url]
  const instances = await Promise.all(Array.from({ length: 6 }, () => openLocks(t, { nodes: urls.map(url => connect(t, url)), timeout: 100, retryDelay: 50, wait: 3000 })))
  const seen = { inside: 0, most: 0, done: 0, last: 0, disorder: 0 }
  const end = performance.now() + 5000
  const work = instances.map(async ({ locks }) => {
    while (performance.now() < end) {
      await locks.using('a', async (_signal, { token }) => {
        seen.most = Math.max(seen.most, ++seen.inside)
        if (token <= seen.last) seen.disorder++
        seen.last = token
        await sleep(Math.random() * 10)
        seen.inside--
        seen.done++
      }).catch(async () => await sleep(20))
    }
  })
  while (performance.now() < end) {
    await sleep(300)
    nodes[1]!.pause()
    await sleep(150)
    nodes[1]!.resume()
  }
  await Promise.all(work)
  t.same({ most: seen.most, disorder: seen.disorder }, { most: 1, disorder: 0 })
  t.ok(seen.done > 20, `${seen.done} sections`)
  t.comment(`${seen.done} sections`)
})
