import t, { type Test } from 'tap'
import { json } from '../../../plugins/cache/data/serializer.js'
import type { WriteBehind } from '../../../plugins/cache/data/write-behind/write-behind.js'
import { advanceUntil, forEachStore, openStore, type TestStore } from '../../helpers/index.js'
import { openBehind } from '../../helpers/cache/write-behind.js'

const addAll = (behind: WriteBehind<number>, key: string, values: number[]) => Promise.all(values.map(value => behind.add(key, value)))
const oneToTen = Array.from({ length: 10 }, (_, i) => i)

forEachStore(['memory', 'redis', 'cluster'], store => {
  const promise = (text: string, test: (t: Test, base: TestStore) => Promise<unknown>) =>
    t.test(`${store}: ${text}`, async t => await test(t, await openStore(t, store)))

  promise('added writes reach the source after flushEvery, complete and in order per key', async (t, base) => {
    const { source, behind, clock } = openBehind(t, base, { flushEvery: 50 })
    const acceptedAt = clock.now()
    const keys = ['a', 'b', 'ü {x} *\n', 'd', 'e']
    const ids = (await Promise.all(keys.map(key => addAll(behind, key, oneToTen)))).flat()
    await advanceUntil(clock, 'all is written', async () => (await behind.stats()).written === 50)
    for (const key of keys) t.same(source.valuesOf(key), oneToTen)
    t.same(new Set(source.written.map(({ id }) => id)), new Set(ids), 'by the ids that add() gave')
    t.same(source.written.filter(write => write.attempt !== 1 || write.acceptedAt !== acceptedAt), [])
    t.same(source.fences.filter(fence => !(fence > 0)), [])
    await advanceUntil(clock, 'nothing waits', async () => (await behind.stats()).backlog === 0)
    t.match(await behind.stats(), { accepted: 50, written: 50, superseded: 0, failed: 0, redelivered: 0, deadLetters: 0, oldestMs: 0, owned: 4 })
  })

  promise('a batch has at most `batch` writes; a full batch is written at once, and others wait for flushEvery', async (t, base) => {
    const { source, behind, clock, isIdle, flush } = openBehind(t, base, { batch: 10, partitions: 1 })
    await isIdle(1)
    await addAll(behind, 'a', oneToTen.slice(1))
    await clock.advance('1m')
    t.equal(source.written.length, 0)
    t.match(await behind.stats(), { backlog: 9, oldestMs: 60_000 })
    await addAll(behind, 'b', oneToTen.slice(0, 6))
    await advanceUntil(clock, 'the full batch is written', () => source.batches.length > 0)
    t.equal(source.batches[0]?.length, 10)
    await flush()
    t.equal(source.written.length, 15)
    t.same(source.batches.filter(batch => batch.length > 10), [])
  })

  promise('flush() resolves when all writes that were accepted before are written, and rejects after its timeout', async (t, base) => {
    const { source, behind, soon, flush } = openBehind(t, base)
    for (const key of 'abcdefgh') await behind.add(key, 1)
    await flush()
    t.equal(source.written.length, 8)
    source.refuse = () => Object.assign(new Error('down'), { code: 'ECONNREFUSED' })
    await behind.add('a', 2)
    await t.rejects(soon(behind.flush({ timeout: 100 })), { code: 'FST_REDIS_SUITE_CACHE_FLUSH_INCOMPLETE', statusCode: 503 })
    source.refuse = undefined
    await flush()
    t.equal(source.written.length, 9)
  })

  promise('a write that fails is retried alone, and delays later writes of its key and no others', async (t, base) => {
    const { source, behind, soon, flush } = openBehind(t, base, { partitions: 1, retries: 50 })
    let isBad = true
    source.refuse = batch => isBad && batch.some(({ key, value }) => key === 'bad' && value === 3) ? new Error('not this one') : undefined
    for (const value of oneToTen) {
      await behind.add('good', value)
      await behind.add('bad', value)
    }
    await t.rejects(soon(behind.flush({ timeout: 200 })), { code: 'FST_REDIS_SUITE_CACHE_FLUSH_INCOMPLETE' })
    t.same(source.valuesOf('good'), oneToTen)
    t.same(source.valuesOf('bad'), [0, 1, 2])
    isBad = false
    await flush()
    t.same(source.valuesOf('bad'), oneToTen)
    t.ok(Number(source.written.find(({ key, value }) => key === 'bad' && value === 3)?.attempt) > 2)
  })

  promise('a write that fails more often than `retries` becomes a dead letter, which can be listed, replayed and discarded; other writes continue', async (t, base) => {
    const { source, behind, isIdle, flush } = openBehind(t, base, { retries: 2 })
    await isIdle()
    let gives = 0
    source.refuse = batch => {
      if (!batch.some(({ value }) => value < 0)) return undefined
      if (batch.length === 1) gives++
      return new Error('never a negative one')
    }
    const keys = [...'abcdef']
    const ids = await Promise.all(keys.map(key => behind.add(key, -1)))
    for (const key of keys) await addAll(behind, key, oneToTen)
    await flush()
    for (const key of keys) t.same(source.valuesOf(key), oneToTen)
    // Each was in a batch the first time.
    t.equal(gives, 12, 'alone')
    t.match(await behind.stats(), { backlog: 0, deadLetters: 6, died: 6, dropped: 0 })

    const letters = await behind.deadLetters.list()
    t.same(letters.map(({ writeId }) => writeId).sort(), [...ids].sort())
    for (const letter of letters) t.match(letter, { value: -1, reason: 'never a negative one', attempts: 3 })
    const pages = []
    for (let after: string | undefined; ;) {
      const page = await behind.deadLetters.list({ count: 2, ...after !== undefined && { after } })
      pages.push(...page)
      after = page.at(-1)?.id
      if (page.length === 0) break
    }
    t.same(pages, letters, 'in pages')

    const [first, second] = letters
    t.equal(await behind.deadLetters.discard([first?.id ?? '']), 1)
    source.refuse = undefined
    t.equal(await behind.deadLetters.replay([second?.id ?? '', first?.id ?? '']), 1)
    await flush()
    t.equal(source.valuesOf(second?.key ?? '').at(-1), -1, 'after all that was accepted meanwhile')
    t.equal(await behind.deadLetters.replay(), 4)
    t.equal(await behind.deadLetters.replay(), 0)
    await flush()
    t.equal(source.written.filter(({ value }) => value === -1).length, 5)
    t.same(await behind.deadLetters.list(), [])
    t.equal(await behind.deadLetters.discard(), 0)
  })

  promise('one call of replay() replays a dead letter once even where it fails again, and beyond maxDeadLetters the oldest are dropped', async (t, base) => {
    const { source, behind, flush } = openBehind(t, base, { retries: 0, maxDeadLetters: 5, partitions: 1, flushEvery: 10 })
    source.refuse = () => new Error('never')
    for (const value of oneToTen) await behind.add('a', value)
    await flush()
    t.same((await behind.deadLetters.list()).map(({ value }) => value), [5, 6, 7, 8, 9])
    t.match(await behind.stats(), { deadLetters: 5, died: 10, dropped: 5 })
    t.equal(await behind.deadLetters.replay(), 5)
    await flush()
    t.equal(await behind.deadLetters.discard(), 5)
  })

  promise('while the source is unavailable no write becomes a dead letter, and it is logged once', async (t, base) => {
    const { source, behind, clock, flush, messages } = openBehind(t, base, { retries: 0, batch: 3, flushEvery: 5 })
    let asked = 0
    source.refuse = () => {
      asked++
      return Object.assign(new Error('connect refused'), { code: 'ECONNREFUSED' })
    }
    for (const key of 'abcdef') await addAll(behind, key, oneToTen)
    await advanceUntil(clock, '20 attempts', () => asked > 20)
    source.refuse = undefined
    await flush()
    for (const key of 'abcdef') t.same(source.valuesOf(key), oneToTen)
    t.match(await behind.stats(), { died: 0, deadLetters: 0 })
    t.same(messages(), ['cache: the source of accepted writes is unavailable, writes wait', 'cache: the source of accepted writes is available again'])
  })

  promise('with `latest` only the last waiting write of each key is written', async (t, base) => {
    const { source, behind, isIdle, flush } = openBehind(t, base, { latest: true, batch: 100 })
    await isIdle()
    for (const key of 'abc') await addAll(behind, key, oneToTen)
    await flush()
    for (const key of 'abc') t.same(source.valuesOf(key), [9])
    t.match(await behind.stats(), { backlog: 0, written: 3, superseded: 27 })
  })

  promise('when the backlog is full a write is refused, and accepted again once there is room', async (t, base) => {
    const { source, behind, flush } = openBehind(t, base, { maxBacklog: 20, partitions: 2, flushEvery: 10 })
    source.refuse = () => Object.assign(new Error('down'), { code: 'ECONNRESET' })
    const settled = await Promise.allSettled(Array.from({ length: 30 }, (_, i) => behind.add('a', i)))
    t.same(settled.map(({ status }) => status), [...Array(10).fill('fulfilled'), ...Array(20).fill('rejected')], 'a partition has its share')
    await t.rejects(behind.add('a', 30), { code: 'FST_REDIS_SUITE_CACHE_BACKLOG_FULL', statusCode: 503 })
    t.match(await behind.stats(), { backlog: 10, accepted: 10, refused: 21 })
    source.refuse = undefined
    await flush()
    await behind.add('a', 31)
    await flush()
    t.same(source.valuesOf('a'), [...oneToTen, 31])
  })

  promise('a write that cannot be deserialized becomes a dead letter with the reason', async (t, base) => {
    const { source, behind, flush } = openBehind(t, { ...base, serializer: { ...json, serialize: String } })
    const bad: unknown = '{oops'
    await behind.add('a', bad as number)
    await behind.add('a', 1)
    await flush()
    t.same(source.valuesOf('a'), [1])
    const [letter] = await behind.deadLetters.list()
    t.match(letter, { key: 'a', value: undefined, attempts: 0 })
    t.match(letter?.reason, /^cannot be decoded: /)
  })

  promise('a call of write that exceeds hardTimeout is aborted and retried', async (t, base) => {
    let [stopped, calls] = [0, 0]
    const { source, behind, flush } = openBehind(t, base, {
      flushEvery: 10,
      hardTimeout: 50,
      write: (batch, { signal, fence }) => ++calls > 1
        ? source.write(batch, { fence })
        : new Promise((_resolve, reject) => signal.addEventListener('abort', () => { stopped++; reject(new Error('stopped')) }))
    })
    await behind.add('a', 1)
    await flush()
    t.same([stopped, calls, source.valuesOf('a'), (await behind.stats()).backlog], [1, 2, [1], 0])
  })

  promise('invalid arguments and options are refused with a coded error', async (t, base) => {
    const { behind, behinds } = openBehind(t, base)
    const code = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'
    const write = () => {}
    for (const bad of ['', 'a b', '{x}', 'x'.repeat(65), 'orders']) t.throws(() => behinds.writeBehind(bad, { write }), { code }, bad)
    for (const bad of [{}, { write: 1 }, { batch: 0 }, { batch: 1001 }, { flushEvery: 'soon' }, { retries: -1 }, { latest: 1 }, { maxBacklog: 0 }, { partitions: 65 }, { backoff: 1 }, { backoff: { min: 10, max: 5 } }, { backoff: { most: 1 } }, { isOutage: true }, { flushAt: 1 }]) {
      t.throws(() => behinds.writeBehind('other', { ...'write' in bad || Object.keys(bad).length === 0 ? {} : { write }, ...bad } as never), { code }, JSON.stringify(bad))
    }
    for (const bad of ['', 'x'.repeat(1025), 1]) await t.rejects(behind.add(bad as string, 1), { code })
    await t.rejects(behind.add('a', undefined as never), { code: 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE' })
    for (const bad of ['', 'x', '1-1.9']) await t.rejects(behind.deadLetters.replay([bad]), { code }, bad)
    await t.rejects(behind.deadLetters.list({ count: 0 }), { code })
  })

  promise('after close() no write is accepted, and the memory store has written its backlog', async (t, base) => {
    const { source, behind, close } = openBehind(t, base)
    await behind.add('a', 1)
    await close()
    await t.rejects(behind.add('a', 2), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
    // In Redis it may wait for the next instance.
    if (store === 'memory') t.same(source.valuesOf('a'), [1])
  })
})
