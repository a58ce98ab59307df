import t, { type Test } from 'tap'
import { startRedis, until } from '../helpers/index.js'
import { connect, openLocks } from '../helpers/lock/lock-app.js'
import { startLockChild } from '../helpers/lock/lock-children.js'

const witness = await startRedis()
const server = await startRedis()
const nodes = await Promise.all([startRedis(), startRedis(), startRedis()])

for (const [name, servers] of Object.entries({ 'one node': [server], quorum: nodes })) {
  const open = (t: Test) => {
    const clients = servers.map(({ url }) => connect(t, url))
    return openLocks(t, { timeout: 1000, ...clients.length > 1 ? { nodes: clients } : { redis: clients[0] } })
  }
  const write = async (resource: string, token: number) => {
    const known = Number(await witness.client().hget(`row:${resource}`, 'fence'))
    if (token >= known) await witness.client().hset(`row:${resource}`, 'fence', token, 'value', 'next')
    return token >= known
  }

  t.test(`${name}: a holder paused for longer than its ttl knows it when it wakes, and its write is refused while the next one's passes`, async t => {
    const resource = `paused-${name.length}`
    const { locks } = await open(t)
    const holder = await startLockChild(t, 'hold', servers, witness, resource, 0, 1000)
    holder.go()
    const { token } = await holder.next() as { token: number }
    holder.child.kill('SIGSTOP')
    await locks.using(resource, async (_signal, lock) => {
      t.ok(lock.token > token)
      t.equal(await write(resource, lock.token), true)
    })
    holder.go()
    holder.child.kill('SIGCONT')
    t.same(await holder.next(), { isHeld: false, written: 0, aborted: true })
    t.same(await holder.next(), { ended: 'FST_REDIS_SUITE_LOCK_LOST' })
    t.equal(await witness.client().hget(`row:${resource}`, 'value'), 'next')
  })

  t.test(`${name}: when a holder is killed the next one gets in after its ttl, and not before`, async t => {
    const resource = `killed-${name.length}`
    const { locks } = await open(t)
    const holder = await startLockChild(t, 'hold', servers, witness, resource, 0, 1500)
    holder.go()
    await holder.next()
    const killed = performance.now()
    holder.child.kill('SIGKILL')
    await using next = await locks.acquire(resource)
    const after = performance.now() - killed
    t.ok(next.isHeld && after > 900 && after < 2200, `${after} ms`)
  })
}

t.test('who waits dies: the one behind him has the lock soon all the same', async t => {
  const resource = 'dead-in-line'
  const { locks } = await openLocks(t, { redis: connect(t, server.url), timeout: 1000 })
  const first = await locks.acquire(resource)
  const waiting = await startLockChild(t, 'hold', [server], witness, resource)
  waiting.go()
  const line = async () => await server.client().zcard(`fastify:lock:line:{${resource}}`)
  await until('he stands in line', async () => await line() === 1)
  const second = locks.acquire(resource)
  await until('the next one too', async () => await line() === 2)
  waiting.child.kill('SIGKILL')
  const released = performance.now()
  await first.release()
  await using next = await second
  const after = performance.now() - released
  t.ok(next.isHeld && after < 2500, `${after} ms`)
})
