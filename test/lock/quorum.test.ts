import t from 'tap'
import type { HeldLock, Locks } from '../../plugins/lock/index.js'
import { advanceUntil, advanceWhile, until, type RedisServer } from '../helpers/index.js'
import { CERTAIN_MS, openLocks, startNodes } from '../helpers/lock/lock-app.js'
import { testLocks } from '../helpers/lock/lock-contract.js'

const HOUR = 3_600_000
const UNAVAILABLE = { code: 'FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE', statusCode: 503 }
const LOST = { code: 'FST_REDIS_SUITE_LOCK_LOST', statusCode: 503 }
const LOCKED = { code: 'FST_REDIS_SUITE_LOCK_LOCKED' }
const holders = async (nodes: readonly RedisServer[], key: string) =>
  (await Promise.all(nodes.map(async node => await node.client().exists(key)))).reduce((sum, n) => sum + n, 0)
const each = ([a, b, c]: readonly RedisServer[]): [RedisServer, RedisServer, RedisServer] => {
  if (a === undefined || b === undefined || c === undefined) throw new Error('three nodes')
  return [a, b, c]
}

testLocks(t, 'quorum')

t.test('with one node of three dead or hanging a lock is had, kept and refused as before; with two there is no lock', async t => {
  const nodes = each(await startNodes())
  const { locks, clock } = await openLocks(t, nodes, { timeout: '1 minute' })
  await locks.using('a', () => {})
  nodes[0].pause()
  await locks.using('a', async (signal, lock) => {
    for (let third = 0; third < 6; third++) {
      await clock.advance(HOUR / 3)
      await until('the lock is extended', () => lock.expiresAt === clock.now() + CERTAIN_MS)
    }
    t.equal(signal.aborted, false)
  })
  await nodes[0].kill()
  const held = await locks.acquire('b')
  await t.rejects(locks.acquire('b', { wait: 0 }), LOCKED)
  await nodes[1].kill()
  const answers = Promise.all([locks.using('a', () => 'inside'), held.extend()].map(async answer => await answer.catch((error: unknown) => error)))
  t.match((await advanceWhile(clock, answers, { step: 1000, atMost: HOUR })).value, [UNAVAILABLE, UNAVAILABLE])
  const { value } = await advanceWhile(clock, held.release().catch((error: unknown) => error), { step: 1000, atMost: HOUR })
  t.match(value, UNAVAILABLE)
})

t.test('tokens grow whichever two of three nodes answer', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, keyOf } = await openLocks(t, nodes)
  // So that the clock does not help: one node is far ahead of the others, and the token it gave must reach these.
  const ahead = (clock.now() + HOUR) * 1000
  await nodes[0].client().set(keyOf('fence', 'a'), ahead)
  const tokens: number[] = []
  for (const dead of [2, 0, 1, 0, 2, 1]) {
    nodes[dead]?.pause()
    tokens.push((await advanceWhile(clock, locks.using('a', (_signal, { token }) => token))).value)
    nodes[dead]?.resume()
    await until('it is free on each node', async () => await holders(nodes, keyOf('held', 'a')) === 0)
  }
  t.same(tokens, [...new Set(tokens)].sort((a, b) => a - b))
  t.ok(Math.min(...tokens) > ahead, tokens.join())
})

t.test('the signal of a holder that is left with a minority aborts', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, nodeClients, keyOf } = await openLocks(t, nodes)
  const lost = locks.using('a', async signal => {
    // Two have said yes by now: what the third has not answered yet would be asked of it again when it is back, and make a majority.
    await until('all have it', async () => await holders(nodes, keyOf('held', 'a')) === 3)
    await Promise.all([nodes[0].restart(), nodes[1].restart()])
    await until('both are back', async () => (await Promise.all((nodeClients[0] ?? []).map(async client => await client.ping()))).length === 3)
    await clock.advance(HOUR / 3)
    await until('the signal aborts', () => signal.aborted)
    t.match(signal.reason, { message: /Redis does not have it any more/ })
  })
  await t.rejects(lost, LOST)
})

t.test('a lock whose ttl passed before this process read the answers is asked for again, though the caller does not wait', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, keyOf } = await openLocks(t, nodes)
  await locks.isLocked('a')
  for (const node of nodes) node.pause()
  const acquiring = locks.acquire('a', { wait: 0 })
  await clock.advance(2 * HOUR)
  for (const node of nodes) node.resume()
  const handle = await acquiring
  t.equal(handle.isHeld, true)
  t.equal(handle.expiresAt, clock.now() + CERTAIN_MS)
  t.equal(await handle.release(), true)
  await until('it is free on each node', async () => await holders(nodes, keyOf('held', 'a')) === 0)
})

t.test('a lock that expired between the two questions of an acquisition is asked for again, though the caller does not wait', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, nodeClients, keyOf } = await openLocks(t, nodes)
  await locks.isLocked('a')
  // The process stalls when the majority has answered, before it sends the token to all nodes.
  const [clients = []] = nodeClients
  let stall: Promise<void> | undefined
  for (const client of clients) {
    const { evalsha } = client
    let calls = 0
    client.evalsha = (async (...args: Parameters<typeof evalsha>) => {
      if (++calls === 2) await (stall ??= clock.advance(2 * HOUR))
      return await evalsha.apply(client, args)
    }) as typeof evalsha
  }
  const handle = await locks.acquire('a', { wait: 0 })
  t.not(stall, undefined, 'it stalled')
  t.equal(handle.isHeld, true)
  t.equal(handle.expiresAt, clock.now() + CERTAIN_MS)
  t.equal(await handle.release(), true)
  await until('it is free on each node', async () => await holders(nodes, keyOf('held', 'a')) === 0)
})

t.test('while one node after the other hangs never two are inside, all get in, and tokens are in order', async t => {
  const nodes = each(await startNodes())
  // Where the other two disagree, the answer of the one that hangs is waited for.
  const { all, clock, keyOf } = await openLocks(t, nodes, { instances: 3, timeout: '10s' })
  const seen = { inside: 0, most: 0, tokens: [] as number[] }
  const section = async (_signal: AbortSignal, { token }: HeldLock) => {
    seen.most = Math.max(seen.most, ++seen.inside)
    seen.tokens.push(token)
    await new Promise(resolve => setImmediate(resolve))
    seen.inside--
    return true
  }
  const enter = async (locks: Locks): Promise<void> => {
    while (!await locks.using('a', section).catch(error => error.code === UNAVAILABLE.code ? false : Promise.reject(error)));
  }
  for (let round = 0; round < 6; round++) {
    const node = nodes[round % 3]
    node?.pause()
    await advanceWhile(clock, Promise.all(all.map(enter)), { step: 20, atMost: HOUR })
    node?.resume()
    await advanceUntil(clock, 'it is free on each node', async () => await holders(nodes, keyOf('held', 'a')) === 0)
  }
  t.same({ most: seen.most, done: seen.tokens.length }, { most: 1, done: 18 })
  t.same(seen.tokens, [...new Set(seen.tokens)].sort((a, b) => a - b))
})
