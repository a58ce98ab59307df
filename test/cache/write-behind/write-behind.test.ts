import { Cluster, type Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { json } from '../../../plugins/cache/serializer.js'
import { createWriteBehinds, type WriteBehind, type WriteBehindsOptions } from '../../../plugins/cache/write-behind/write-behind.js'
import type { Write, WriteBehindOptions } from '../../../plugins/cache/write-behind/options.js'
import { guardRedis } from '../../../plugins/shared/guard.js'
import { startCluster, startRedis, until } from '../../helpers/index.js'
import { collectLog } from '../../helpers/app/log-lines.js'

const server = await startRedis()
const cluster = await startCluster()
const ofCluster = new Cluster(cluster.startupNodes)
t.teardown(() => ofCluster.disconnect())
const ROOMY_MS = 2000
const BACKOFF = { min: 5, max: 20 }
let made = 0

function ofRedis (client: Redis | Cluster): WriteBehindsOptions {
  const { logger } = collectLog()
  return { client, prefix: `b${++made}`, run: guardRedis(client, logger, ROOMY_MS).run, log: logger }
}

const stores: Record<string, () => WriteBehindsOptions> = {
  memory: () => ({ client: undefined, prefix: '', run: operation => operation(), log: collectLog().logger }),
  Redis: () => ofRedis(server.client()),
  Cluster: () => ofRedis(ofCluster)
}

/** A source that can be made to refuse. */
function createSource<T> () {
  const batches: Array<ReadonlyArray<Write<T>>> = []
  const fences: number[] = []
  return {
    batches,
    fences,
    refuse: undefined as undefined | ((batch: ReadonlyArray<Write<T>>) => Error | undefined),
    get written () { return batches.flat() },
    valuesOf (key: string) { return batches.flat().filter(each => each.key === key).map(({ value }) => value) },
    async write (batch: ReadonlyArray<Write<T>>, { fence }: { fence: number }) {
      await new Promise(resolve => setImmediate(resolve))
      const error = this.refuse?.(batch)
      if (error) throw error
      batches.push(batch)
      fences.push(fence)
    }
  }
}

type Given = Partial<WriteBehindOptions<number>>

function open (t: Test, base: WriteBehindsOptions, given: Given = {}) {
  const source = createSource<number>()
  const behinds = createWriteBehinds(base)
  t.teardown(() => behinds.close())
  const behind = behinds.writeBehind<number>('orders', { write: (batch, context) => source.write(batch, context), flushEvery: 50, backoff: BACKOFF, ...given })
  return { source, behind, behinds }
}

const addAll = (behind: WriteBehind<number>, key: string, values: number[]) => Promise.all(values.map(value => behind.add(key, value)))
const oneToTen = Array.from({ length: 10 }, (_, i) => i)

for (const [name, make] of Object.entries(stores)) {
  const promise = (text: string, test: (t: Test, base: WriteBehindsOptions) => Promise<unknown>) => t.test(`${name}: ${text}`, t => test(t, make()))

  promise('what is added reaches the source, whole and in order per key, without being asked for', async (t, base) => {
    const { source, behind } = open(t, base)
    const keys = ['a', 'b', 'ü {x} *\n', 'd', 'e']
    const ids = (await Promise.all(keys.map(key => addAll(behind, key, oneToTen)))).flat()
    await until('all is written', () => source.written.length === 50)
    for (const key of keys) t.same(source.valuesOf(key), oneToTen)
    t.same(new Set(source.written.map(({ id }) => id)), new Set(ids), 'by the ids that add() gave')
    t.ok(source.written.every(({ attempt, acceptedAt }) => attempt === 1 && Math.abs(acceptedAt - Date.now()) < 60_000))
    t.ok(source.fences.every(fence => fence > 0))
    await until('nothing waits', async () => (await behind.stats()).backlog === 0)
    t.match(await behind.stats(), { accepted: 50, written: 50, superseded: 0, failed: 0, redelivered: 0, deadLetters: 0, oldestMs: 0, owned: 4 })
  })

  promise('a batch is never larger than asked for, a full one does not wait, and others do', async (t, base) => {
    const { source, behind } = open(t, base, { batch: 10, flushEvery: '1h', partitions: 1 })
    await until('it writes', async () => (await behind.stats()).owned === 1)
    await behind.flush()
    await addAll(behind, 'a', oneToTen.slice(1))
    await new Promise(resolve => setTimeout(resolve, 100))
    t.equal(source.written.length, 0)
    t.match(await behind.stats(), { backlog: 9 })
    t.ok((await behind.stats()).oldestMs >= 50)
    await addAll(behind, 'b', oneToTen.slice(0, 6))
    await until('the full one went', () => source.batches.length > 0)
    t.equal(source.batches[0]?.length, 10)
    await behind.flush()
    t.equal(source.written.length, 15)
    t.ok(source.batches.every(batch => batch.length <= 10))
  })

  promise('flush() resolves when all that was accepted before is written, and rejects when that takes too long', async (t, base) => {
    const { source, behind } = open(t, base, { flushEvery: '1h' })
    for (const key of 'abcdefgh') await behind.add(key, 1)
    await behind.flush()
    t.equal(source.written.length, 8)
    source.refuse = () => Object.assign(new Error('down'), { code: 'ECONNREFUSED' })
    await behind.add('a', 2)
    await t.rejects(behind.flush({ timeout: 100 }), { code: 'FST_REDIS_SUITE_CACHE_FLUSH_INCOMPLETE', statusCode: 503 })
    source.refuse = undefined
    await behind.flush()
    t.equal(source.written.length, 9)
  })

  promise('a write that fails is given again, alone, and holds up later ones of its key and no others', async (t, base) => {
    const { source, behind } = open(t, base, { partitions: 1, flushEvery: '1h', retries: 50 })
    let isBad = true
    source.refuse = batch => isBad && batch.some(({ key, value }) => key === 'bad' && value === 3) ? new Error('not this one') : undefined
    for (const value of oneToTen) {
      await behind.add('good', value)
      await behind.add('bad', value)
    }
    await t.rejects(behind.flush({ timeout: 200 }))
    t.same(source.valuesOf('good'), oneToTen)
    t.same(source.valuesOf('bad'), [0, 1, 2])
    isBad = false
    await behind.flush()
    t.same(source.valuesOf('bad'), oneToTen)
    t.ok(source.written.find(({ key, value }) => key === 'bad' && value === 3)?.attempt ?? 0 > 2)
  })

  promise('a write that fails too often becomes a dead letter that is listed, replayed and discarded, and the others go on', async (t, base) => {
    const { source, behind } = open(t, base, { retries: 2, flushEvery: '1h' })
    let gives = 0
    source.refuse = batch => {
      if (!batch.some(({ value }) => value < 0)) return undefined
      if (batch.length === 1) gives++
      return new Error('never a negative one')
    }
    const keys = [...'abcdef']
    const ids = await Promise.all(keys.map(key => behind.add(key, -1)))
    for (const key of keys) await addAll(behind, key, oneToTen)
    await behind.flush()
    for (const key of keys) t.same(source.valuesOf(key), oneToTen)
    t.ok(gives <= 18 && gives >= 12, `${gives} times alone`)
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
    await behind.flush()
    t.equal(source.valuesOf(second?.key ?? '').at(-1), -1, 'after all that was accepted meanwhile')
    t.equal(await behind.deadLetters.replay(), 4)
    t.equal(await behind.deadLetters.replay(), 0)
    await behind.flush()
    t.equal(source.written.filter(({ value }) => value === -1).length, 5)
    t.same(await behind.deadLetters.list(), [])
    t.equal(await behind.deadLetters.discard(), 0)
  })

  promise('replayed dead letters that fail again are not replayed twice by one call, and of too many the oldest go', async (t, base) => {
    const { source, behind } = open(t, base, { retries: 0, maxDeadLetters: 5, partitions: 1, flushEvery: 10 })
    source.refuse = () => new Error('never')
    for (const value of oneToTen) await behind.add('a', value)
    await behind.flush()
    t.same((await behind.deadLetters.list()).map(({ value }) => value), [5, 6, 7, 8, 9])
    t.match(await behind.stats(), { deadLetters: 5, died: 10, dropped: 5 })
    t.equal(await behind.deadLetters.replay(), 5)
    await behind.flush()
    t.equal(await behind.deadLetters.discard(), 5)
  })

  promise('while the source is out of reach nothing becomes a dead letter, and it is said once', async (t, base) => {
    const { logger, lines } = collectLog()
    const { source, behind } = open(t, { ...base, log: logger }, { retries: 0, batch: 3, flushEvery: 5 })
    let asked = 0
    source.refuse = () => {
      asked++
      return Object.assign(new Error('connect refused'), { code: 'ECONNREFUSED' })
    }
    for (const key of 'abcdef') await addAll(behind, key, oneToTen)
    await until('it was tried', () => asked > 20)
    source.refuse = undefined
    await behind.flush()
    for (const key of 'abcdef') t.same(source.valuesOf(key), oneToTen)
    t.match(await behind.stats(), { died: 0, deadLetters: 0 })
    t.same(lines.filter(({ level }) => Number(level) > 20).map(({ msg }) => msg), ['cache: the source of accepted writes cannot be used, they wait', 'cache: the source of accepted writes is used again'])
  })

  promise('with latest, of the writes of a key that wait only the last is given', async (t, base) => {
    const { source, behind } = open(t, base, { latest: true, flushEvery: '1h', batch: 100 })
    await until('it writes', async () => (await behind.stats()).owned === 4)
    await behind.flush()
    for (const key of 'abc') await addAll(behind, key, oneToTen)
    await behind.flush()
    for (const key of 'abc') t.same(source.valuesOf(key), [9])
    t.match(await behind.stats(), { backlog: 0, written: 3, superseded: 27 })
  })

  promise('when the backlog is full a write is refused, and accepted again once there is room', async (t, base) => {
    const { source, behind } = open(t, base, { maxBacklog: 20, partitions: 2, flushEvery: 10 })
    source.refuse = () => Object.assign(new Error('down'), { code: 'ECONNRESET' })
    const settled = await Promise.allSettled(Array.from({ length: 30 }, (_, i) => behind.add('a', i)))
    t.same(settled.map(({ status }) => status), [...Array(10).fill('fulfilled'), ...Array(20).fill('rejected')], 'a partition has its share')
    await t.rejects(behind.add('a', 30), { code: 'FST_REDIS_SUITE_CACHE_BACKLOG_FULL', statusCode: 503 })
    t.match(await behind.stats(), { backlog: 10, accepted: 10, refused: 21 })
    source.refuse = undefined
    await behind.flush()
    await behind.add('a', 31)
    await behind.flush()
    t.same(source.valuesOf('a'), [...oneToTen, 31])
  })

  promise('what cannot be read becomes a dead letter with the reason', async (t, base) => {
    const { source, behind } = open(t, { ...base, serializer: { ...json, serialize: String } })
    const bad: unknown = '{oops'
    await behind.add('a', bad as number)
    await behind.add('a', 1)
    await behind.flush()
    t.same(source.valuesOf('a'), [1])
    const [letter] = await behind.deadLetters.list()
    t.match(letter, { key: 'a', value: undefined, attempts: 0 })
    t.match(letter?.reason, /^cannot be read: /)
  })

  promise('a write that does not end is told to stop and given again', async (t, base) => {
    const { source, behind } = open(t, base, { hardTimeout: 50 })
    let stopped = 0
    let calls = 0
    const { behind: slow } = { behind: createSlow() }
    function createSlow () {
      const behinds = createWriteBehinds(base)
      t.teardown(() => behinds.close())
      return behinds.writeBehind<number>('slow', {
        flushEvery: 10,
        hardTimeout: 50,
        backoff: BACKOFF,
        write: (batch, { signal }) => ++calls > 1
          ? source.write(batch, { fence: 1 })
          : new Promise((_resolve, reject) => signal.addEventListener('abort', () => { stopped++; reject(new Error('stopped')) }))
      })
    }
    await slow.add('a', 1)
    await slow.flush()
    t.same([stopped, calls, source.valuesOf('a'), (await behind.stats()).backlog], [1, 2, [1], 0])
  })

  promise('what cannot be used is refused with a coded error', async (t, base) => {
    const { behind, behinds } = open(t, base)
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

  promise('after close() nothing is accepted', async (t, base) => {
    const { source, behind, behinds } = open(t, base, { flushEvery: '1h' })
    await behind.add('a', 1)
    await behinds.close()
    await t.rejects(behind.add('a', 2), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
    // In Redis it may wait for the next instance.
    if (base.client === undefined) t.same(source.valuesOf('a'), [1])
  })
}
