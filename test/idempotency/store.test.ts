import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { createMemoryStore } from '../../plugins/idempotency/memory-store.js'
import { createRedisStore } from '../../plugins/idempotency/redis-store.js'
import type { IdempotencyStore, StoredAnswer } from '../../plugins/idempotency/store.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const answer: StoredAnswer = { status: 201, headers: { link: ['a', 'b'] }, body: Buffer.from([0, 255, 10]) }
const first = { id: 'id', fingerprint: 'print', token: 'first' }
const second = { ...first, token: 'second' }
let prefixes = 0

function onEachStore (name: string, test: (t: Test, store: IdempotencyStore) => Promise<unknown>): void {
  t.test(`memory: ${name}`, async t => await test(t, createMemoryStore(10)))
  t.test(`Redis: ${name}`, async t => {
    const client = new Redis(server.url)
    t.teardown(() => { client.disconnect() })
    await test(t, createRedisStore(client, `s${++prefixes}`))
  })
}

onEachStore('what is said twice, as its answer was lost, is done once', async (t, store) => {
  t.same([await store.claim(first, 60_000), await store.claim(first, 60_000)], ['mine', 'mine'])
  t.equal(await store.claim(second, 60_000), 'theirs')
  t.same([await store.complete(first, answer, 60_000), await store.complete(first, answer, 60_000)], [true, true])
  t.same(await store.claim(second, 60_000), answer)
})

onEachStore('an answer is neither given back nor renewed for a lease, nor replaced by another one', async (t, store) => {
  await store.claim(first, 60_000)
  await store.complete(first, answer, 60_000)
  t.equal(await store.renew(first, 1), false)
  await store.release(first)
  t.equal(await store.complete(second, { ...answer, status: 500 }, 60_000), false)
  t.same(await store.claim(second, 60_000), answer)
})

onEachStore('only whoever has a claim renews it, gives it back, or answers it', async (t, store) => {
  await store.claim(first, 60_000)
  t.equal(await store.renew(second, 60_000), false)
  await store.release(second)
  t.equal(await store.complete(second, answer, 60_000), false)
  t.equal(await store.claim({ ...second, fingerprint: 'other' }, 60_000), 'other')
  t.equal(await store.renew(first, 60_000), true)
  await store.release(first)
  t.equal(await store.claim(second, 60_000), 'mine')
})

onEachStore('a claim that expired is the next one\'s; where there is none it is answered all the same', async (t, store) => {
  await store.claim(first, 20)
  await until('it is the next one\'s', async () => await store.claim(second, 60_000) === 'mine')
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

t.test('in the memory the answers used least recently go first, and what is under way never', async t => {
  const store = createMemoryStore(2)
  await store.claim({ ...first, id: 'under way' }, 60_000)
  for (const id of ['a', 'b', 'c']) await store.complete({ ...first, id }, answer, 60_000)
  t.equal(await store.claim({ ...second, id: 'under way' }, 60_000), 'theirs')
  t.same(await store.claim({ ...second, id: 'c' }, 60_000), answer)
  t.equal(await store.claim({ ...second, id: 'a' }, 60_000), 'mine')
})
