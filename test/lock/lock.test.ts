import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { lock, type HeldLock, type LockHandle, type LockPluginOptions, type Locks } from '../../plugins/lock/index.js'
import { createMemoryStore } from '../../plugins/lock/memory-store.js'
import { acquireScript } from '../../plugins/shared/work-queue/lease-scripts.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { sendScript } from '../../plugins/shared/redis/script.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { advanceUntil, advanceWhile, forEachStore, newPrefix, sharedRedis, until, type RedisServer } from '../helpers/index.js'
import { CERTAIN_MS, connect, openLocks, startNodes } from '../helpers/lock/lock-app.js'
import { testLocks } from '../helpers/lock/lock-contract.js'
import { heapInUse } from '../helpers/timing/heap.js'

const server = await sharedRedis()
const client = server.client()

forEachStore(['memory', 'redis', 'cluster'], store => testLocks(t, store))

t.test('an invalid option is refused at registration and at each call, and the error names it', async t => {
  const invalid = { code: 'FST_REDIS_SUITE_LOCK_INVALID_OPTION' }
  const client = connect(t, server.url)
  for (const options of [
    { ttl: 99 }, { ttl: '2 days' }, { ttl: 'soon' }, { wait: -1 }, { retryDelay: 1 }, { clockDrift: 0.6 }, { timeout: 0 }, { extend: 'yes' }, { tll: 5 }, { clock: Date },
    { nodes: [client, client, client] }, { nodes: [client] }, { nodes: 3 }, { redis: client, nodes: [client] }, { redis: 'redis://' }
  ]) {
    const [name = ''] = Object.keys(options)
    await t.rejects(async () => { await Fastify().register(lock, options as LockPluginOptions) }, { ...invalid, message: new RegExp(`"${name}"`) }, name)
  }
  const { locks } = await openLocks(t, 'memory')
  for (const resource of ['', [], ['a', 'a'], [''], 5, undefined]) await t.rejects(locks.acquire(resource as string), invalid, JSON.stringify(resource))
  await t.rejects(locks.acquire('a', { tll: 5 } as object), { ...invalid, message: /"tll"/ })
  await t.rejects(locks.acquire('a', { signal: {} as AbortSignal }), { ...invalid, message: /"signal"/ })
  await t.rejects(locks.using('a', 'fn' as unknown as () => void), { ...invalid, message: /"fn"/ })
  for (const options of [{}, { every: 0 }, { every: '5 years' }, { every: '1h', tick: '' }, { every: '1h', tick: 1.5 }, { every: '1h', tick: {} }, { every: '1h', tock: 1 }]) {
    const name = Object.keys(options).at(-1) ?? 'every'
    await t.rejects(locks.once('a', options as never, () => {}), { ...invalid, message: new RegExp(`"${name}"`) }, JSON.stringify(options))
  }
  await t.rejects(locks.once('a', undefined as never, () => {}), invalid)
  await t.rejects(locks.once(['a', 'b'] as never, { every: '1h' }, () => {}), invalid)
  await t.rejects(locks.once('a', { every: '1h' }, 'fn' as never), { ...invalid, message: /"fn"/ })
  t.equal(await locks.isLocked('a'), false)
})

t.test('without Redis one log line says that locks hold in this process only', async t => {
  const { lines } = await openLocks(t, 'memory')
  t.equal(lines.filter(({ plugin }) => plugin === 'lock').length, 1)
})

t.test('in memory, expired locks take no memory, even behind a lock with a long ttl', async t => {
  const clock = createTestClock()
  const store = createMemoryStore({ notify () {}, notifyAll () {} }, clock)
  await store.acquire('long', 'owner', 86_400_000, 0)
  const before = heapInUse()
  for (let i = 0; i < 50_000; i++) await store.acquire(`short-${i}`, 'owner', 0, 0)
  // Other work of the process may be in the heap for a moment; what the store keeps is always.
  let grown = heapInUse() - before
  for (let i = 0; i < 5 && grown >= 2_000_000; i++) {
    await new Promise(resolve => setImmediate(resolve))
    grown = heapInUse() - before
  }
  t.ok(grown < 2_000_000, `${grown} bytes`)
  t.equal(await store.isLocked('long'), true)
})

/** Values that were never issued as tokens. */
const NONE = ['nan', '-nan', 'inf', '-inf', '1e400', '1e30', '-5', '1.5', '', 'text', '0x1fffffffffffff', ' 12', '12 ', '12\0']
/** Whole numbers that no safe integer is above. */
const TOO_HIGH = ['9000000000000000', '9007199254740992', '99999999999999999999', `1${'0'.repeat(400)}`]

t.test('a stored fence that is not a token is repaired: each token is a safe integer above all before it', async t => {
  const { locks, clock, keyOf } = await openLocks(t, 'redis')
  for (const damaged of NONE) {
    const tokens: number[] = []
    const take = async () => { await locks.using('a', (_signal, { token }) => { tokens.push(token) }) }
    await take()
    await client.set(keyOf('fence', 'a'), damaged)
    await clock.advance(1)
    for (let i = 0; i < 3; i++) await take()
    t.ok(tokens.every((token, i) => Number.isSafeInteger(token) && token > (tokens[i - 1] ?? 0)), `${JSON.stringify(damaged)}: ${tokens.join()}`)
    t.equal(await client.get(keyOf('fence', 'a')), String(tokens.at(-1)))
  }
})

t.test('the next extension restores a fence that is damaged while its lock is held', async t => {
  const { locks, keyOf } = await openLocks(t, 'redis')
  for (const damaged of [...NONE, '1']) {
    await using held = await locks.acquire('a')
    await client.set(keyOf('fence', 'a'), damaged)
    await held.extend()
    t.equal(await client.get(keyOf('fence', 'a')), String(held.token), JSON.stringify(damaged))
  }
  await using held = await locks.acquire('a')
  await client.set(keyOf('fence', 'a'), '8999999999999999')
  await held.extend()
  t.equal(await client.get(keyOf('fence', 'a')), '8999999999999999')
})

t.test('a fence that no safe integer is above is a coded error with its key, nothing is locked, and deleting the key helps', async t => {
  const { locks, keyOf } = await openLocks(t, 'redis')
  for (const damaged of TOO_HIGH) {
    await client.set(keyOf('fence', 'a'), damaged)
    const error = await locks.acquire('a').catch((error: unknown) => error)
    t.match(error, { code: 'FST_REDIS_SUITE_LOCK_FENCE_EXHAUSTED', statusCode: 500 }, damaged)
    t.ok(String(error).includes(keyOf('fence', 'a')))
    t.equal(await locks.isLocked('a'), false)
    t.equal(await client.get(keyOf('fence', 'a')), damaged)
    await client.del(keyOf('fence', 'a'))
    t.equal(await locks.using('a', () => 'inside'), 'inside')
  }
  await client.set(keyOf('fence', 'a'), '8999999999999999')
  t.equal(await locks.using('a', (_signal, { token }) => token), 9_000_000_000_000_000)
})

t.test('a key of another type in place of a fence or a queue is replaced, and in place of a lock it is left alone', async t => {
  const { locks, keyOf } = await openLocks(t, 'redis')
  for (const what of ['fence', 'line', 'seen'] as const) {
    await client.rpush(keyOf(what, 'a'), 'x')
    const held = await locks.acquire('a')
    await client.del(keyOf(what, 'a'))
    await client.rpush(keyOf(what, 'a'), 'x')
    await t.rejects(locks.acquire('a', { wait: 0 }), { code: 'FST_REDIS_SUITE_LOCK_LOCKED' }, what)
    t.equal(await held.release(), true, what)
    t.equal(await locks.isLocked('a'), false, what)
  }
  await client.rpush(keyOf('held', 'a'), 'x')
  await t.rejects(locks.acquire('a', { wait: 0 }), { code: 'FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE' })
  t.same(await client.lrange(keyOf('held', 'a'), 0, -1), ['x'])
})

t.test('the fences of write-behind and of streams follow the same rules', async t => {
  const prefix = newPrefix()
  const [owner, fence] = [`${prefix}:owner`, `${prefix}:fence`]
  const clock = createTestClock()
  const acquire = async () => {
    await client.del(owner)
    await clock.advance(1)
    return await sendScript(portOf(client), acquireScript, [owner, fence], ['token', 60_000], clock)
  }
  for (const damaged of NONE) {
    const before = Number(await acquire())
    await client.set(fence, damaged, 'EX', 60)
    const [next, last] = [Number(await acquire()), Number(await acquire())]
    t.ok(Number.isSafeInteger(last) && last > next && next > before, JSON.stringify(damaged))
  }
  for (const damaged of TOO_HIGH) {
    await client.set(fence, damaged, 'EX', 60)
    await t.rejects(acquire(), { message: /^FENCE/ })
    t.equal(await client.exists(owner), 0)
  }
  await client.del(owner, fence)
})

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

t.test('with one node of three dead or hanging locks are acquired, extended and refused as before; with two there are no locks', async t => {
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

t.test('tokens grow whichever two of three nodes reply', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, keyOf } = await openLocks(t, nodes)
  // The clock must not help: one node is far ahead of the others, which must learn its token.
  const ahead = (clock.now() + HOUR) * 1000
  await nodes[0].client().set(keyOf('fence', 'a'), ahead)
  const tokens: number[] = []
  for (const dead of [2, 0, 1, 0, 2, 1]) {
    nodes[dead]?.pause()
    tokens.push((await advanceWhile(clock, locks.using('a', (_signal, { token }) => token))).value)
    nodes[dead]?.resume()
    await until('the lock is free on each node', async () => await holders(nodes, keyOf('held', 'a')) === 0)
  }
  t.same(tokens, [...new Set(tokens)].sort((a, b) => a - b))
  t.ok(Math.min(...tokens) > ahead, tokens.join())
})

t.test('the signal of a holder with only a minority of nodes aborts', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, nodeClients, keyOf } = await openLocks(t, nodes)
  const lost = locks.using('a', async signal => {
    // Two nodes have granted the lock. The client would repeat a command that the third has not replied to, which would make a majority.
    await until('all nodes have the lock', async () => await holders(nodes, keyOf('held', 'a')) === 3)
    await Promise.all([nodes[0].restart(), nodes[1].restart()])
    await until('both nodes are available', async () => (await Promise.all((nodeClients[0] ?? []).map(async client => await client.ping()))).length === 3)
    await clock.advance(HOUR / 3)
    await until('the signal aborts', () => signal.aborted)
    t.match(signal.reason, { message: /Redis does not have it any more/ })
  })
  await t.rejects(lost, LOST)
})

/** Asserts that a lock has its whole ttl ahead, and is free on all nodes after its release. */
async function holdsAndReleases (
  t: Test, handle: LockHandle, clock: TestClock, nodes: RedisServer[], keyOf: (kind: 'held', resource: string) => string
): Promise<void> {
  t.equal(handle.isHeld, true)
  t.equal(handle.expiresAt, clock.now() + CERTAIN_MS)
  t.equal(await handle.release(), true)
  await until('the lock is free on each node', async () => await holders(nodes, keyOf('held', 'a')) === 0)
}

t.test('a lock whose ttl passed before this process read the replies is requested again, even with wait 0', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, keyOf } = await openLocks(t, nodes)
  await locks.isLocked('a')
  for (const node of nodes) node.pause()
  const acquiring = locks.acquire('a', { wait: 0 })
  await clock.advance(2 * HOUR)
  for (const node of nodes) node.resume()
  const handle = await acquiring
  await holdsAndReleases(t, handle, clock, nodes, keyOf)
})

t.test('a lock that expired between the two steps of an acquisition is requested again, even with wait 0', async t => {
  const nodes = each(await startNodes())
  const { locks, clock, nodeClients, keyOf } = await openLocks(t, nodes)
  await locks.isLocked('a')
  // The process stalls when the majority has replied, before it sends the token to all nodes.
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
  await holdsAndReleases(t, handle, clock, nodes, keyOf)
})

t.test('while one node after the other hangs, sections exclude each other, all run, and tokens are in order', async t => {
  const nodes = each(await startNodes())
  // If the other two nodes disagree, the vote waits for the reply of the one that hangs.
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
    await advanceUntil(clock, 'the lock is free on each node', async () => await holders(nodes, keyOf('held', 'a')) === 0)
  }
  t.same({ most: seen.most, done: seen.tokens.length }, { most: 1, done: 18 })
  t.same(seen.tokens, [...new Set(seen.tokens)].sort((a, b) => a - b))
})
