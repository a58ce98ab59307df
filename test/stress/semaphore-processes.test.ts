import t from 'tap'
import { createTestApp, newPrefix, startRedis, until } from '../helpers/index.js'
import { startLockChild } from '../helpers/lock/lock-children.js'
import { scaled } from '../helpers/stress/scale.js'

const LEASE_MS = 1500
const KILLS = 4
const sleep = async (ms: number) => await new Promise(resolve => setTimeout(resolve, ms))

t.test('8 processes, of which some are killed, never have more than all permits, and no permit is lost for longer than a lease', async t => {
  const witness = await startRedis()
  const server = await startRedis()
  const seen = witness.client()
  const prefix = newPrefix()
  const start = async (sections: number) => await startLockChild(t, { mode: 'permits', servers: [server], witness, prefix, resource: 'work', sections, ttl: LEASE_MS })
  const sections = Math.max(50, scaled(300))
  const lasting = await Promise.all(Array.from({ length: 4 }, async () => await start(sections)))
  const doomed = await Promise.all(Array.from({ length: KILLS }, async () => await start(100_000)))
  for (const child of [...lasting, ...doomed]) child.go()
  const ends = lasting.map(async child => await child.next())
  for (const { child } of doomed) {
    await sleep(300)
    child.kill('SIGKILL')
    await until('it has ended', () => child.signalCode !== null)
    // It is not inside any more, although its lease lasts.
    await seen.hdel('holders', String(child.pid))
  }
  await Promise.all(ends)
  t.equal(await seen.get('crowded'), null)
  t.ok(Number(await seen.get('full')) > 0, 'all permits were in use')
  t.ok(Number(await seen.get('done')) >= 4 * sections)
  const { app } = await createTestApp(t, { store: server, prefix, clock: 'real', plugins: { lock: {} } })
  const semaphore = app.locks.semaphore('work', { permits: 5 })
  await sleep(LEASE_MS + 200)
  t.equal(await semaphore.available(), 5)
})
