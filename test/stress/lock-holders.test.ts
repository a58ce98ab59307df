import t, { type Test } from 'tap'
import { startRedis, until } from '../helpers/index.js'
import { openLocks, startNodes } from '../helpers/lock/lock-app.js'
import { startLockChild } from '../helpers/lock/lock-children.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'
import { monotonicMs } from '../helpers/timing/stalls.js'

const witness = await startRedis()
const server = await startRedis()
const nodes = await startNodes()

for (const [name, servers] of Object.entries({ 'one node': [server], quorum: nodes })) {
  const open = async (t: Test) => await openLocks(t, servers.length > 1 ? servers : server, { clock: 'real', timeout: 1000, ttl: '10s', wait: '1 minute' })
  const write = async (resource: string, token: number) => {
    const known = Number(await witness.client().hget(`row:${resource}`, 'fence'))
    if (token >= known) await witness.client().hset(`row:${resource}`, 'fence', token, 'value', 'next')
    return token >= known
  }

  t.test(`${name}: a holder that was paused for longer than its ttl notices it at once, and its write is refused while the next holder's passes`, async t => {
    const resource = `paused-${name.length}`
    const { locks, prefix } = await open(t)
    const holder = await startLockChild(t, { mode: 'hold', servers, witness, prefix, resource, ttl: 1000 })
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

  t.test(`${name}: if a holder is killed, the next one gets the lock after the ttl, and not before`, async t => {
    const resource = `killed-${name.length}`
    const { locks, prefix, keyOf } = await open(t)
    const { span } = await startHeartbeat(t)
    const holder = await startLockChild(t, { mode: 'hold', servers, witness, prefix, resource, ttl: 1500 })
    holder.go()
    await holder.next()
    holder.child.kill('SIGKILL')
    const sinceKilled = span()
    const before = monotonicMs()
    const left = await Promise.all(servers.map(async node => await node.client().pttl(keyOf('held', resource))))
    await using next = await locks.acquire(resource)
    const waited = monotonicMs() - before
    t.equal(next.isHeld, true)
    // A majority of nodes is free when the second of three is.
    const end = left.sort((a, b) => a - b)[Math.floor(left.length / 2)] ?? 0
    t.ok(waited >= end - 1, `after ${waited} ms, where the lock stood for ${end}`)
    await sinceKilled.within(2200, 'the next one has it')
  })
}

t.test('if a waiting process is killed, the next waiter still gets the lock soon', async t => {
  const resource = 'dead-in-line'
  const { locks, prefix, keyOf } = await openLocks(t, server, { clock: 'real', timeout: 1000, ttl: '10s', wait: '1 minute' })
  const { span } = await startHeartbeat(t)
  const first = await locks.acquire(resource, { extend: true })
  const waiting = await startLockChild(t, { mode: 'hold', servers: [server], witness, prefix, resource })
  waiting.go()
  const line = async () => await server.client().zcard(keyOf('line', resource))
  await until('the caller is queued', async () => await line() === 1)
  const second = locks.acquire(resource)
  await until('the next caller is queued', async () => await line() === 2)
  waiting.child.kill('SIGKILL')
  const sinceReleased = span()
  await first.release()
  await using next = await second
  t.equal(next.isHeld, true)
  await sinceReleased.within(2500, 'the next one has it')
})
