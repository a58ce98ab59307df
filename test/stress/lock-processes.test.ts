import t, { type Test } from 'tap'
import { newPrefix, startProxy, startRedis, type RedisServer } from '../helpers/index.js'
import { openLocks, startNodes } from '../helpers/lock/lock-app.js'
import { startLockChild } from '../helpers/lock/lock-children.js'
import { scaled } from '../helpers/stress/scale.js'

const SECTIONS = scaled(250)
const witness = await startRedis()
const server = await startRedis()
const nodes = await startNodes()
const sleep = async (ms: number) => await new Promise(resolve => setTimeout(resolve, ms))

/** Makes processes enter sections of one resource as fast as they can, and counts them on another server. */
async function runCounters (t: Test, servers: readonly RedisServer[], processes: number, sections: number) {
  const seen = witness.client()
  await seen.flushall()
  const prefix = newPrefix()
  const children = await Promise.all(Array.from({ length: processes }, async () =>
    await startLockChild(t, { mode: 'count', servers, witness, prefix, resource: 'counter', sections })))
  const doneByEach = async () => await Promise.all(children.map(async ({ child }) => Number(await seen.get(`done:${child.pid}`))))
  const begun = performance.now()
  for (const child of children) child.go()
  const ends = children.map(async child => await child.next())
  await Promise.race(ends)
  const least = Math.min(...await doneByEach())
  await Promise.all(ends)
  t.comment(`${Math.round(processes * sections / (performance.now() - begun) * 1000)} sections/s; when the first was done, the last had ${least} of ${sections}`)
  for (const { child } of children) child.disconnect()
  const done = (await doneByEach()).reduce((sum, count) => sum + count, 0)
  return { done, crowded: await seen.get('crowded'), disorder: await seen.get('disorder'), least }
}

t.test('8 processes: sections exclude each other, tokens are in order, and every process enters', async t => {
  const { least, ...seen } = await runCounters(t, [server], 8, SECTIONS)
  t.same(seen, { done: 8 * SECTIONS, crowded: null, disorder: null })
  t.ok(least > SECTIONS / 2, `${least} of ${SECTIONS}`)
})

t.test('4 processes with a quorum of 3 nodes, 200 sections: the same holds', async t => {
  const { least, ...seen } = await runCounters(t, nodes, 4, 50)
  t.same(seen, { done: 200, crowded: null, disorder: null })
})

t.test('with a slow node, and one that hangs repeatedly, sections exclude each other, and tokens are in order', async t => {
  const [first, second, third] = await startNodes() as [RedisServer, RedisServer, RedisServer]
  const proxy = await startProxy(first.port)
  proxy.delay(30)
  const slow = Object.assign(Object.create(first) as RedisServer, { url: `redis://127.0.0.1:${proxy.port}` })
  const { all } = await openLocks(t, [slow, second, third], { clock: 'real', instances: 6, timeout: 100, retryDelay: 50, wait: 3000, ttl: '10s' })
  const seen = { inside: 0, most: 0, done: 0, last: 0, disorder: 0 }
  const end = performance.now() + scaled(5000)
  const work = all.map(async locks => {
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
    second.pause()
    await sleep(150)
    second.resume()
  }
  await Promise.all(work)
  t.same({ most: seen.most, disorder: seen.disorder }, { most: 1, disorder: 0 })
  t.ok(seen.done > scaled(20), `${seen.done} sections`)
  t.comment(`${seen.done} sections`)
})

t.test('60 concurrent callers with a quorum, on 3 instances, exclude each other, and all enter', async t => {
  const { all } = await openLocks(t, nodes, { clock: 'real', instances: 3, timeout: '10s', wait: '1 minute', ttl: '30s' })
  const seen = { inside: 0, most: 0, done: 0 }
  await Promise.all(Array.from({ length: 60 }, async (_, i) => await all[i % 3]?.using('b', async () => {
    seen.most = Math.max(seen.most, ++seen.inside)
    await sleep(1)
    seen.inside--
    seen.done++
  })))
  t.same(seen, { inside: 0, most: 1, done: 60 })
})
