import type { FastifyBaseLogger } from 'fastify'
import t, { type Test } from 'tap'
import { createMemoryStore } from '../../plugins/idempotency/memory-store.js'
import { createRedisStore } from '../../plugins/idempotency/redis-store.js'
import { Run, type RunContext } from '../../plugins/idempotency/run.js'
import type { IdempotencyStore, StoredAnswer } from '../../plugins/idempotency/store.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { forEachStore, openStore } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

const answer: StoredAnswer = { status: 201, headers: { link: ['a', 'b'] }, body: Buffer.from([0, 255, 10]) }
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
  t.equal(await store.claim({ ...second, fingerprint: 'other' }, 60_000), 'other')
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

t.test('responses that a store does not take are bounded, and the log has a line for all of them', async t => {
  const { logger, lines } = collectLog()
  const linesWith = (part: string) => lines.filter(line => String(line['msg']).includes(part)).length
  const clock = createTestClock()
  let isDown = true
  const kept: string[] = []
  const context: RunContext = {
    store: {
      ...createMemoryStore(10, clock),
      async complete ({ id }) {
        if (isDown) throw new Error('down')
        kept.push(id)
        return true
      }
    },
    run: operation => operation(),
    log: logger as FastifyBaseLogger,
    clock,
    runs: new Set(),
    debts: { bytes: 0, isFull: false }
  }
  const body = Buffer.alloc(25 * 1024 * 1024)
  const complete = async (id: string) => {
    const run = new Run(context, { claimant: { id, fingerprint: '', token: id }, lease: 300, ttl: 60_000, isClaimed: true, isOver: () => false })
    await run.complete({ status: 200, headers: {}, body })
  }
  for (const id of ['a', 'b', 'c', 'd']) await complete(id)
  t.same([context.runs.size, linesWith('an answer is not kept yet'), linesWith('no more answers are kept')], [2, 1, 1])
  isDown = false
  await clock.advance(100)
  t.same([context.runs.size, kept.sort(), context.debts], [0, ['a', 'b'], { bytes: 0, isFull: false }])
  isDown = true
  await complete('e')
  t.same([context.runs.size, linesWith('an answer is not kept yet')], [1, 2])
  isDown = false
  await clock.advance(100)
  t.same([context.runs.size, kept], [0, ['a', 'b', 'e']])
})

t.test('a response that the store does not take for a minute is given up', async t => {
  const { logger } = collectLog()
  const clock = createTestClock()
  let attempts = 0
  const context: RunContext = {
    store: { ...createMemoryStore(10, clock), async complete () { attempts++; throw new Error('down') } },
    run: operation => operation(),
    log: logger as FastifyBaseLogger,
    clock,
    runs: new Set(),
    debts: { bytes: 0, isFull: false }
  }
  const run = new Run(context, { claimant: first, lease: 30_000, ttl: 3_600_000, isClaimed: true, isOver: () => false })
  await run.complete(answer)
  await clock.advance('1 minute')
  t.same([context.runs.size, attempts], [1, 7])
  await clock.advance('10s')
  t.same([context.runs.size, attempts, context.debts], [0, 7, { bytes: 0, isFull: false }])
})
