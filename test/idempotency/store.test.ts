import type { FastifyBaseLogger } from 'fastify'
import t, { type Test } from 'tap'
import { createMemoryStore } from '../../plugins/idempotency/memory-store.js'
import { PendingWrites } from '../../plugins/idempotency/pending-writes.js'
import { createRedisStore } from '../../plugins/idempotency/redis-store.js'
import { Execution, type ExecutionContext } from '../../plugins/idempotency/execution.js'
import type { IdempotencyStore, RecordedResponse } from '../../plugins/idempotency/store.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { forEachStore, openStore } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

const answer: RecordedResponse = { status: 201, headers: { link: ['a', 'b'] }, body: Buffer.from([0, 255, 10]) }
const first = { id: 'id', fingerprint: 'print', token: 'first' }
const second = { ...first, token: 'second' }

function onEachStore (name: string, test: (t: Test, store: IdempotencyStore, clock: TestClock) => Promise<unknown>): void {
  forEachStore(['memory', 'redis', 'cluster'], kind => {
    t.test(`${kind}: ${name}`, async t => {
      const { client, prefix, clock } = await openStore(t, kind)
      await test(t, client === undefined ? createMemoryStore(10, clock) : createRedisStore(client, prefix), clock)
    })
  })
}

onEachStore('an operation that is repeated, as its answer was lost, is done once', async (t, store) => {
  t.same([await store.claim(first, 60_000), await store.claim(first, 60_000)], ['mine', 'mine'])
  t.equal(await store.claim(second, 60_000), 'theirs')
  t.same([await store.complete(first, answer, 60_000), await store.complete(first, answer, 60_000)], [true, true])
  t.same(await store.claim(second, 60_000), answer)
})

onEachStore('a stored response is neither released nor renewed for a lease, nor replaced by another one', async (t, store) => {
  await store.claim(first, 60_000)
  await store.complete(first, answer, 60_000)
  t.equal(await store.renew(first, 1), false)
  await store.release(first)
  t.equal(await store.complete(second, { ...answer, status: 500 }, 60_000), false)
  t.same(await store.claim(second, 60_000), answer)
})

onEachStore('a stored response that could not be sent is retracted by its owner alone', async (t, store) => {
  await store.claim(first, 60_000)
  await store.complete(first, answer, 60_000)
  await store.retract(second)
  t.same(await store.claim(second, 60_000), answer)
  await store.retract(first)
  t.equal(await store.claim(second, 60_000), 'mine')
  await store.retract(first)
  t.equal(await store.renew(second, 60_000), true, 'the next claim stays')
})

onEachStore('only the owner of a claim renews it, releases it, or completes it', async (t, store) => {
  await store.claim(first, 60_000)
  t.equal(await store.renew(second, 60_000), false)
  await store.release(second)
  t.equal(await store.complete(second, answer, 60_000), false)
  t.same(await store.claim({ ...second, fingerprint: 'other' }, 60_000), { fingerprint: 'print' })
  t.equal(await store.renew(first, 60_000), true)
  await store.release(first)
  t.equal(await store.claim(second, 60_000), 'mine')
})

onEachStore('a claim that expired is free for the next owner; without any claim a response is stored all the same', async (t, store, clock) => {
  await store.claim(first, 600_000)
  await clock.advance('5 minutes')
  t.equal(await store.claim(second, 600_000), 'theirs')
  await clock.advance('5 minutes')
  t.equal(await store.claim(second, 600_000), 'mine')
  t.equal(await store.renew(first, 60_000), false)
  t.equal(await store.complete({ ...first, id: 'another' }, answer, 60_000), true)
  t.same(await store.claim({ ...second, id: 'another' }, 60_000), answer)
})

onEachStore('no body, an empty one and one that was too large are told apart', async (t, store) => {
  for (const body of [null, Buffer.alloc(0), 'too-large'] as const) {
    const id = String(body)
    await store.complete({ ...first, id }, { ...answer, body }, 60_000)
    t.same(await store.claim({ ...second, id }, 60_000), { ...answer, body })
  }
})

t.test('in memory the responses used least recently go first, and requests under way never', async t => {
  const store = createMemoryStore(2)
  await store.claim({ ...first, id: 'under way' }, 60_000)
  for (const id of ['a', 'b', 'c']) await store.complete({ ...first, id }, answer, 60_000)
  t.equal(await store.claim({ ...second, id: 'under way' }, 60_000), 'theirs')
  t.same(await store.claim({ ...second, id: 'c' }, 60_000), answer)
  t.equal(await store.claim({ ...second, id: 'a' }, 60_000), 'mine')
})

t.test('in memory a system clock that is set forward ends no claim', async t => {
  const clock = createTestClock()
  let ahead = 0
  const store = createMemoryStore(10, { ...clock, now: () => clock.now() + ahead })
  await store.claim(first, 60_000)
  ahead = 3_600_000
  t.equal(await store.claim(second, 60_000), 'theirs')
})

/** Runs on a store that takes no responses while `isDown` of their id. */
function runsOn (isDown: (id: string) => boolean) {
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
  const owed = new PendingWrites(services)
  const context: ExecutionContext = { ...services, runs: new Set(), owed }
  const complete = async (id: string, given: RecordedResponse = answer) => {
    const run = new Execution(context, { claimant: { id, fingerprint: '', token: id }, lease: 30_000, ttl: 3_600_000, isClaimed: true, isOver: () => false, headersBefore: {} })
    await run.complete(given)
    return run
  }
  return { context, owed, clock, kept, complete, attempts: () => attempts, linesWith: (part: string) => lines.filter(line => String(line['msg']).includes(part)).length }
}

t.test('responses that a store does not take are bounded, and the log has a line for all of them', async t => {
  let isDown = true
  const { context, owed, clock, kept, complete, linesWith } = runsOn(() => isDown)
  const large = { status: 200, headers: {}, body: Buffer.alloc(25 * 1024 * 1024) }
  for (const id of ['a', 'b', 'c', 'd']) await complete(id, large)
  t.same([context.runs.size, owed.size, linesWith('an answer is not kept yet'), linesWith('no more answers are kept')], [0, 2, 1, 1])
  isDown = false
  await clock.advance(1000)
  t.same([kept.sort(), owed.size, owed.bytes], [['a', 'b'], 0, 0])
  isDown = true
  await complete('e', large)
  t.same([owed.size, linesWith('an answer is not kept yet')], [1, 2])
  isDown = false
  await clock.advance(1000)
  t.same([owed.size, kept], [0, ['a', 'b', 'e']])
})

t.test('a response that the store does not take for a minute is given up', async t => {
  const { owed, clock, complete, attempts } = runsOn(() => true)
  await complete('a')
  await clock.advance('1 minute')
  t.same([owed.size, attempts()], [1, 601])
  await clock.advance('10s')
  t.same([owed.size, owed.bytes, attempts()], [0, 0, 601])
})

t.test('while the store takes none of the owed responses one is tried at a time, and all are written once it is back', async t => {
  let isDown = true
  const { owed, clock, kept, complete, attempts } = runsOn(() => isDown)
  for (let i = 0; i < 1000; i++) await complete(String(i))
  await clock.advance('3s')
  t.same([owed.size, attempts()], [1000, 1000 + 3 * 10])
  isDown = false
  await clock.advance('1s')
  t.same([owed.size, owed.bytes, kept.length], [0, 0, 1000])
})

t.test('an owed response that the store never takes holds up no other one', async t => {
  let isAllDown = true
  const { owed, clock, kept, complete } = runsOn(id => isAllDown || id === 'a')
  for (const id of ['a', 'b', 'c']) await complete(id)
  isAllDown = false
  await clock.advance('1s')
  t.same([owed.size, kept.sort()], [1, ['b', 'c']])
})

t.test('an owed response that could not be sent is not stored any more', async t => {
  let isDown = true
  const { owed, clock, kept, complete } = runsOn(() => isDown)
  const run = await complete('a')
  run.fail(false)
  isDown = false
  await clock.advance('1s')
  t.same([owed.size, kept], [0, []])
})

t.test('when the process ends, owed responses are tried once more, and the log has how many are lost', async t => {
  let isDown = true
  const { owed, kept, complete, linesWith } = runsOn(() => isDown)
  await complete('a')
  await owed.close()
  t.same([owed.size, kept, linesWith('closed with answers that could not be stored')], [0, [], 1])
  await complete('b')
  isDown = false
  await owed.close()
  t.same([owed.size, kept], [0, ['b']])
})
