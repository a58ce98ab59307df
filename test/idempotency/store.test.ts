import type { FastifyBaseLogger } from 'fastify'
import t, { type Test } from 'tap'
import { createMemoryStore } from '../../plugins/idempotency/memory-store.js'
import { PendingWrites } from '../../plugins/idempotency/pending-writes.js'
import { createRedisStore } from '../../plugins/idempotency/redis-store.js'
import { Execution, type ExecutionContext } from '../../plugins/idempotency/execution.js'
import { ACQUIRED, IN_PROGRESS, type IdempotencyStore, type KeyState, type RecordedResponse } from '../../plugins/idempotency/store.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { forEachStore, openStore } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

const response: RecordedResponse = { status: 201, headers: { link: ['a', 'b'] }, body: Buffer.from([0, 255, 10]) }
const first = { id: 'id', fingerprint: 'print', token: 'first' }
const second = { ...first, token: 'second' }
const stored: KeyState = { kind: 'stored', response }

function onEachStore (name: string, test: (t: Test, store: IdempotencyStore, clock: TestClock) => Promise<unknown>): void {
  forEachStore(['memory', 'redis', 'cluster'], kind => {
    t.test(`${kind}: ${name}`, async t => {
      const { port, prefix, clock } = await openStore(t, kind)
      await test(t, port === undefined ? createMemoryStore(10, clock) : createRedisStore(port, prefix), clock)
    })
  })
}

onEachStore('an operation that is repeated because its reply was lost takes effect once', async (t, store) => {
  t.same([await store.acquire(first, 60_000), await store.acquire(first, 60_000)], [ACQUIRED, ACQUIRED])
  t.same(await store.acquire(second, 60_000), IN_PROGRESS)
  t.same([await store.complete(first, response, 60_000), await store.complete(first, response, 60_000)], [true, true])
  t.same(await store.acquire(second, 60_000), stored)
})

onEachStore('a stored response is neither released nor renewed for a lease, nor replaced by another one', async (t, store) => {
  await store.acquire(first, 60_000)
  await store.complete(first, response, 60_000)
  t.equal(await store.renew(first, 1), false)
  await store.release(first)
  t.equal(await store.complete(second, { ...response, status: 500 }, 60_000), false)
  t.same(await store.acquire(second, 60_000), stored)
})

onEachStore('a stored response that could not be sent is retracted by its own request alone', async (t, store) => {
  await store.acquire(first, 60_000)
  await store.complete(first, response, 60_000)
  await store.retract(second)
  t.same(await store.acquire(second, 60_000), stored)
  await store.retract(first)
  t.same(await store.acquire(second, 60_000), ACQUIRED)
  await store.retract(first)
  t.equal(await store.renew(second, 60_000), true, 'the next request keeps the key')
})

onEachStore('only the request that has the key renews, releases or completes it', async (t, store) => {
  await store.acquire(first, 60_000)
  t.equal(await store.renew(second, 60_000), false)
  await store.release(second)
  t.equal(await store.complete(second, response, 60_000), false)
  t.same(await store.acquire({ ...second, fingerprint: 'other' }, 60_000), { kind: 'mismatch', fingerprint: 'print' })
  t.equal(await store.renew(first, 60_000), true)
  await store.release(first)
  t.same(await store.acquire(second, 60_000), ACQUIRED)
})

onEachStore('a key whose lease expired is free for the next request; a response is also stored without a lease', async (t, store, clock) => {
  await store.acquire(first, 600_000)
  await clock.advance('5 minutes')
  t.same(await store.acquire(second, 600_000), IN_PROGRESS)
  await clock.advance('5 minutes')
  t.same(await store.acquire(second, 600_000), ACQUIRED)
  t.equal(await store.renew(first, 60_000), false)
  t.equal(await store.complete({ ...first, id: 'another' }, response, 60_000), true)
  t.same(await store.acquire({ ...second, id: 'another' }, 60_000), stored)
})

onEachStore('no body, an empty body and a body that is too large are distinct', async (t, store) => {
  for (const body of [null, Buffer.alloc(0), 'too-large'] as const) {
    const id = String(body)
    await store.complete({ ...first, id }, { ...response, body }, 60_000)
    t.same(await store.acquire({ ...second, id }, 60_000), { kind: 'stored', response: { ...response, body } })
  }
})

t.test('in memory the least recently used responses are evicted first, and requests in progress never', async t => {
  const store = createMemoryStore(2)
  await store.acquire({ ...first, id: 'in progress' }, 60_000)
  for (const id of ['a', 'b', 'c']) await store.complete({ ...first, id }, response, 60_000)
  t.same(await store.acquire({ ...second, id: 'in progress' }, 60_000), IN_PROGRESS)
  t.same(await store.acquire({ ...second, id: 'c' }, 60_000), stored)
  t.same(await store.acquire({ ...second, id: 'a' }, 60_000), ACQUIRED)
})

t.test('in memory a system clock that is set forward expires no lease', async t => {
  const clock = createTestClock()
  let ahead = 0
  const store = createMemoryStore(10, { ...clock, now: () => clock.now() + ahead })
  await store.acquire(first, 60_000)
  ahead = 3_600_000
  t.same(await store.acquire(second, 60_000), IN_PROGRESS)
})

/** Executions on a store that rejects responses while `isDown` returns true for their id. */
function executionsOn (isDown: (id: string) => boolean) {
  const { logger, lines } = collectLog()
  const clock = createTestClock()
  const kept: string[] = []
  let attempts = 0
  const store: IdempotencyStore = {
    ...createMemoryStore(10, clock),
    async complete ({ id }) {
      attempts++
      if (isDown(id)) throw new Error('down')
      kept.push(id)
      return true
    }
  }
  const services = { store, run: <T>(operation: () => Promise<T>) => operation(), log: logger as FastifyBaseLogger, clock }
  const pendingWrites = new PendingWrites(services)
  const context: ExecutionContext = { ...services, executions: new Set(), pendingWrites }
  const complete = async (id: string, given: RecordedResponse = response) => {
    const execution = new Execution(context, { request: { id, fingerprint: '', token: id }, lease: 30_000, ttl: 3_600_000, hasKey: true, isOver: () => false, headersBefore: {} })
    await execution.complete(given)
    return execution
  }
  return { context, pendingWrites, clock, kept, complete, attempts: () => attempts, linesWith: (part: string) => lines.filter(line => String(line['msg']).includes(part)).length }
}

t.test('pending responses are bounded in bytes, and logged once an outage', async t => {
  let isDown = true
  const { context, pendingWrites, clock, kept, complete, linesWith } = executionsOn(() => isDown)
  const large = { status: 200, headers: {}, body: Buffer.alloc(25 * 1024 * 1024) }
  for (const id of ['a', 'b', 'c', 'd']) await complete(id, large)
  t.same([context.executions.size, pendingWrites.size, linesWith('could not be stored and is queued'), linesWith('the queue of unstored responses is full')], [0, 2, 1, 1])
  isDown = false
  await clock.advance(1000)
  t.same([kept.sort(), pendingWrites.size, pendingWrites.bytes], [['a', 'b'], 0, 0])
  isDown = true
  await complete('e', large)
  t.same([pendingWrites.size, linesWith('could not be stored and is queued')], [1, 2])
  isDown = false
  await clock.advance(1000)
  t.same([pendingWrites.size, kept], [0, ['a', 'b', 'e']])
})

t.test('a pending response is given up after a minute', async t => {
  const { pendingWrites, clock, complete, attempts } = executionsOn(() => true)
  await complete('a')
  await clock.advance('1 minute')
  t.same([pendingWrites.size, attempts()], [1, 601])
  await clock.advance('10s')
  t.same([pendingWrites.size, pendingWrites.bytes, attempts()], [0, 0, 601])
})

t.test('an unavailable store gets one pending response an attempt, and all of them once it is available again', async t => {
  let isDown = true
  const { pendingWrites, clock, kept, complete, attempts } = executionsOn(() => isDown)
  for (let i = 0; i < 1000; i++) await complete(String(i))
  await clock.advance('3s')
  t.same([pendingWrites.size, attempts()], [1000, 1000 + 3 * 10])
  isDown = false
  await clock.advance('1s')
  t.same([pendingWrites.size, pendingWrites.bytes, kept.length], [0, 0, 1000])
})

t.test('a pending response that the store never takes delays no other one', async t => {
  let isAllDown = true
  const { pendingWrites, clock, kept, complete } = executionsOn(id => isAllDown || id === 'a')
  for (const id of ['a', 'b', 'c']) await complete(id)
  isAllDown = false
  await clock.advance('1s')
  t.same([pendingWrites.size, kept.sort()], [1, ['b', 'c']])
})

t.test('a pending response that could not be sent is not stored any more', async t => {
  let isDown = true
  const { pendingWrites, clock, kept, complete } = executionsOn(() => isDown)
  const execution = await complete('a')
  execution.fail(false)
  isDown = false
  await clock.advance('1s')
  t.same([pendingWrites.size, kept], [0, []])
})

t.test('closing makes a last attempt to store pending responses, and logs how many are lost', async t => {
  let isDown = true
  const { pendingWrites, kept, complete, linesWith } = executionsOn(() => isDown)
  await complete('a')
  await pendingWrites.close()
  t.same([pendingWrites.size, kept, linesWith('closed with responses that could not be stored')], [0, [], 1])
  await complete('b')
  isDown = false
  await pendingWrites.close()
  t.same([pendingWrites.size, kept], [0, ['b']])
})
