import t, { type Test } from 'tap'
import { startRedis, type RedisServer } from '../helpers/index.js'
import { startLockChild } from '../helpers/lock/lock-children.js'

// More of them by SCALE=5: it takes that much longer.
const SCALE = Number(process.env['SCALE'] ?? 1)
const witness = await startRedis()
const server = await startRedis()
const nodes = await Promise.all([startRedis(), startRedis(), startRedis()])

/** What another server saw of processes that enter sections of one resource as fast as they can. */
async function runCounters (t: Test, servers: readonly RedisServer[], processes: number, sections: number) {
  const seen = witness.client()
  await seen.flushall()
  const children = await Promise.all(Array.from({ length: processes }, () => startLockChild(t, 'count', servers, witness, 'counter', sections)))
  const doneByEach = async () => await Promise.all(children.map(async ({ child }) => Number(await seen.get(`done:${child.pid}`))))
  const begun = performance.now()
  for (const child of children) child.go()
  const ends = children.map(child => child.next())
  await Promise.race(ends)
  const least = Math.min(...await doneByEach())
  await Promise.all(ends)
  t.comment(`${Math.round(processes * sections / (performance.now() - begun) * 1000)} sections/s; when the first was done, the last had ${least} of ${sections}`)
  for (const { child } of children) child.disconnect()
  const done = (await doneByEach()).reduce((sum, count) => sum + count, 0)
  return { done, crowded: await seen.get('crowded'), disorder: await seen.get('disorder'), least }
}

t.test('8 processes, 2,000 sections: never two inside, tokens in order, and each process gets its turns', async t => {
  const { least, ...seen } = await runCounters(t, [server], 8, 250 * SCALE)
  t.same(seen, { done: 2000 * SCALE, crowded: null, disorder: null })
  t.ok(least > 125 * SCALE, `${least} of ${250 * SCALE}`)
})

t.test('the same by quorum of 3 nodes: 4 processes, 200 sections', async t => {
  const { least, ...seen } = await runCounters(t, nodes, 4, 50)
  t.same(seen, { done: 200, crowded: null, disorder: null })
})
