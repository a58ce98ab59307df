import t from 'tap'
import { startRedis, until } from '../helpers/index.js'
import { connect, openLocks } from '../helpers/lock-app.js'
import { startLockChild } from '../helpers/lock-children.js'

const [server, witness] = await Promise.all([startRedis(), startRedis()])
const nodes = await Promise.all([startRedis(), startRedis(), startRedis()])

/** What another server saw of them. */
async function runCounters (t: Tap.Test, servers: typeof nodes, processes: number, sections: number) {
  await witness.client().flushall()
  const children = await Promise.all(Array.from({ length: processes }, () => startLockChild(t, 'count', servers, witness, 'counter', sections)))
  const begun = performance.now()
  for (const child of children) child.go()
  const shares: number[][] = []
  const isOver = Promise.all(children.map(child => child.next()))
  void isOver.then(() => { shares.push([]) })
  await isOver
  const seconds = (performance.now() - begun) / 1000
  const done = await Promise.all(children.map(async ({ child }) => Number(await witness.client().get(`done:${child.pid}`))))
  const [crowded, disorder] = await witness.client().mget('crowded', 'disorder')
  t.comment(`${Math.round(processes * sections / seconds)} sections/s`)
  for (const { child } of children) child.disconnect()
  return { crowded, disorder, done: done.reduce((sum, count) => sum + count, 0) }
}
