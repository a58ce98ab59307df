import { randomBytes } from 'node:crypto'
import { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Entry } from '../../plugins/cache/store/entry.js'
import { MemoryCacheStore } from '../../plugins/cache/store/memory-store.js'
import { RedisCacheStore } from '../../plugins/cache/store/redis-store.js'
import { ALL_TAG, type CacheStore } from '../../plugins/cache/store/store.js'
import { hashId } from '../../plugins/shared/plugin/keys.js'
import type { TestClock } from '../../plugins/testing/index.js'
import { forEachStore, mastersOf, openStore, type StoreName } from '../helpers/index.js'

let made = 0

interface Subject {
  store: CacheStore
  clock: TestClock
  client: Redis | Cluster | undefined
  prefix: string
  /** Makes the store forget the versions of tags, as an eviction does. */
  loseTags: (...tags: string[]) => Promise<unknown>
}

async function open (t: Test, name: StoreName): Promise<Subject> {
  const { client, port, prefix, clock } = await openStore(t, name)
  if (client === undefined || port === undefined) {
    const store = new MemoryCacheStore(64 * 1024 ** 2, clock)
    return { store, clock, client, prefix, loseTags: () => store.tags(Array.from({ length: 100_000 }, (_, i) => `other ${i}`)) }
  }
  const keyOf = (tag: string) => `${prefix}:cache:tag:${tag === ALL_TAG ? `#${hashId(tag)}` : tag}`
  return { store: new RedisCacheStore(port, prefix, 'self', clock), clock, client, prefix, loseTags: (...tags) => Promise.all(tags.map(tag => client.del(keyOf(tag)))) }
}

/** Begins a fill as the plugin does: reads the key, and acquires a lease. */
async function begin ({ store }: Pick<Subject, 'store'>, name: string, tags: string[] = []) {
  const id = hashId(name)
  const { token } = await store.read(id, tags)
  const { now, versions } = await store.lease(hashId(`${name} fill ${++made}`), 'me').acquire([ALL_TAG, ...tags], 1000)
  const entry: Entry = { kind: 'value', label: name, meta: { a: 'ü' }, body: Buffer.from(name), storedAt: now, deleteAt: now + 60_000, tags: versions }
  return { id, entry, write: (over: Partial<Entry> = {}) => store.write(id, { ...entry, ...over }, token) }
}

const put = async (subject: Pick<Subject, 'store'>, name: string, tags: string[] = []) => await (await begin(subject, name, tags)).write()
const has = async ({ store }: Pick<Subject, 'store'>, name: string, tags: string[] = []) => (await store.read(hashId(name), tags)).entry !== undefined

forEachStore(['memory', 'redis', 'cluster'], name => {
  const promise = (text: string, test: (t: Test, subject: Subject) => Promise<unknown>) => t.test(`${name}: ${text}`, async t => test(t, await open(t, name)))

  promise('an entry that is written is read whole, and no other key has it', async (t, subject) => {
    const body = randomBytes(70_000)
    const { id, entry, write } = await begin(subject, 'a', ['x'])
    t.equal(await write({ body }), true)
    const found = await subject.store.read(id, ['x', 'y'])
    t.same({ ...found.entry, body: '' }, { ...entry, body: '' })
    t.ok(body.equals(found.entry?.body ?? Buffer.alloc(0)))
    t.match(found.versions, { x: entry.tags['x'], y: undefined, [ALL_TAG]: entry.tags[ALL_TAG] })
    t.equal(await has(subject, 'b'), false)
  })

  promise('a write after a removal or after another write is refused, and of 20 concurrent writes one is stored', async (t, subject) => {
    const beforeRemoval = await begin(subject, 'a')
    t.equal(await subject.store.remove(beforeRemoval.id), false)
    t.same([await beforeRemoval.write(), await has(subject, 'a')], [false, false])
    const late = await begin(subject, 'a')
    t.equal(await put(subject, 'a'), true, 'a caller that read the tombstone stores')
    t.equal(await late.write(), false)
    t.equal(await put(subject, 'a'), true, 'a caller that read the other entry replaces it')
    const many = await Promise.all(Array.from({ length: 20 }, () => begin(subject, 'b')))
    t.equal((await Promise.all(many.map(({ write }) => write()))).filter(Boolean).length, 1)
  })

  promise('an entry that has expired is not read, and does not refuse a write', async (t, subject) => {
    await (await begin(subject, 'a')).write()
    const { write } = await begin(subject, 'a')
    await subject.clock.advance(60_001)
    t.equal(await has(subject, 'a'), false)
    t.equal(await write(), true)
  })

  promise('an entry is invalid once one of its tags is invalidated, even one that the reader does not know, and no other entry is', async (t, subject) => {
    const { store } = subject
    for (const [key, tags] of Object.entries({ a: ['x'], b: ['x', 'y'], c: ['y'], d: [] })) await put(subject, key, tags)
    await store.invalidate(['x'])
    t.same(await Promise.all(['a', 'b', 'c', 'd'].map(key => has(subject, key))), [false, false, true, true])
    t.equal(await put(subject, 'a', ['x']), true)
    await store.invalidate(['y'])
    t.same(await Promise.all(['a', 'b', 'c', 'd'].map(key => has(subject, key))), [true, false, false, true])
    await store.invalidate([ALL_TAG])
    t.same(await Promise.all(['a', 'b', 'c', 'd'].map(key => has(subject, key))), [false, false, false, false])
  })

  promise('an entry whose fill began before an invalidation is invalid, although it is stored after it', async (t, subject) => {
    const { write } = await begin(subject, 'a', ['x'])
    await subject.store.invalidate(['x'])
    await write()
    t.equal(await has(subject, 'a'), false)
  })

  promise('entries of a tag whose version was evicted are invalid, also once the tag has a new version', async (t, subject) => {
    await put(subject, 'a', ['x'])
    await put(subject, 'b')
    await subject.loseTags('x')
    t.equal(await has(subject, 'a'), false)
    await put(subject, 'c', ['x'])
    t.same([await has(subject, 'a'), await has(subject, 'c')], [false, true])
    await subject.loseTags(ALL_TAG)
    t.equal(await has(subject, 'b'), false)
  })

  promise('an entry of setMany() is invalid once a tag is invalidated after the call, even if the caller awaits neither', async (t, subject) => {
    const { store } = subject
    for (const tag of ['x', ALL_TAG]) {
      for (let i = 0; i < 20; i++) {
        const { id, entry } = await begin(subject, `put ${tag} ${i}`, ['x'])
        const make = (tags: Record<string, string>): Entry => ({ ...entry, tags })
        if (i > 0) await store.setMany([{ id, tags: ['x'], make }])
        // On a Cluster the tag and the entry lie on several nodes, so the caller awaits the write before it invalidates.
        const putting = store.setMany([{ id, tags: ['x'], make }])
        if (name === 'cluster') await putting
        await Promise.all([putting, store.invalidate([tag])])
        t.equal((await store.read(id, ['x'])).entry, undefined, `${tag} ${i}`)
      }
    }
  })

  promise('of 20 concurrent callers one gets the lease, and keeps it as long as it renews it', async (t, { store, clock }) => {
    const begun = await Promise.all(Array.from({ length: 20 }, (_, i) => store.lease('w', `t${i}`).acquire([], 60_000)))
    t.equal(begun.filter(({ kind }) => kind === 'acquired').length, 1)
    t.equal(begun.filter(({ kind }) => kind === 'held').length, 19)
    const mine = `t${begun.findIndex(({ kind }) => kind === 'acquired')}`
    for (let i = 0; i < 3; i++) {
      await clock.advance(40_000)
      await store.lease('w', mine).renew(60_000)
      await store.lease('w', 'another').renew(600_000)
    }
    t.equal((await store.lease('w', 'another').acquire([], 60_000)).kind, 'held')
    await clock.advance(60_001)
    t.equal((await store.lease('w', 'another').acquire([], 60_000)).kind, 'acquired', 'a holder that does not renew its lease is succeeded')
    await store.lease('w', mine).release(true)
    t.equal((await store.lease('w', mine).acquire([], 60_000)).kind, 'held', 'its old token does not end it')
    await store.lease('w', 'another').release(true)
    t.equal((await store.lease('w', mine).acquire([], 50)).kind, 'acquired')
  })

  promise('after a fill that is not shareable no caller waits for 1 s; then the lease is acquired again', async (t, { store, clock }) => {
    await store.lease('w', 'a').acquire([], 60_000)
    await store.lease('w', 'b').release(false)
    t.equal((await store.lease('w', 'b').acquire([], 50)).kind, 'held')
    await store.lease('w', 'a').release(false)
    t.same([(await store.lease('w', 'b').acquire([], 50)).kind, (await store.lease('w', 'c').acquire([], 50)).kind], ['hit-for-pass', 'hit-for-pass'])
    await store.lease('w', 'a').release(true)
    t.equal((await store.lease('w', 'b').acquire([], 50)).kind, 'hit-for-pass')
    await clock.advance(1001)
    t.equal((await store.lease('w', 'b').acquire([], 50)).kind, 'acquired')
  })

  promise('remove() returns whether there was an entry, and leaves a tombstone that has a token', async (t, subject) => {
    await put(subject, 'a')
    const id = hashId('a')
    t.same([await subject.store.remove(id), await subject.store.remove(id), await has(subject, 'a')], [true, false, false])
    t.not((await subject.store.read(id, [])).token, '')
  })

  promise('a tag has a version from when it is first read, and the time of its last invalidation', async (t, { store, clock }) => {
    const first = await store.tags(['x', 'y'])
    t.equal(first.invalidatedAt, 0)
    t.same(await store.tags(['x', 'y']), first)
    await clock.advance('5s')
    await store.invalidate(['x'])
    const { versions: { x, y }, invalidatedAt } = await store.tags(['x', 'y'])
    t.equal(y, first.versions['y'])
    t.not(x, first.versions['x'])
    t.same([first.now, invalidatedAt], [clock.now() - 5000, clock.now()], 'milliseconds since the epoch, by the clock of the options')
    t.equal((await store.tags(['y'])).invalidatedAt, 0, 'the other tag was not invalidated')
  })

  promise('removeMatching() removes the entries with a matching label of any length, and counts entries only', async (t, subject) => {
    const { store } = subject
    const long = `yes-${'x'.repeat(6000)}`
    const names = [...Array.from({ length: 60 }, (_, i) => `${i % 2 ? 'yes' : 'no'}-"${i}`), long]
    for (const each of names) await put(subject, each)
    await store.remove(hashId('yes-"1'))
    t.equal(await store.removeMatching(label => label.startsWith('yes')), 30)
    t.same(await Promise.all(names.map(each => has(subject, each))), names.map(each => each.startsWith('no')))
    t.equal(await store.removeMatching(() => true), 30, 'a tombstone is not counted')
  })
})

forEachStore(['redis', 'cluster'], name => {
  t.test(`${name}: every key has a TTL and the prefix, for any names of tags`, async t => {
    const { store, client, prefix } = await open(t, name)
    for (let i = 0; i < 20; i++) await put({ store }, `a${i}`, [`t${i}`, '{x}', 'a b*\n'])
    await store.invalidate(['t1', 't30'])
    await store.remove(hashId('a1'))
    await store.remove(hashId('none'))
    await store.tags(['new'])
    await store.lease('w', 'a').acquire([], 60_000)
    await store.lease('w', 'a').renew(60_000)
    await store.lease('v', 'a').acquire([], 60_000)
    await store.lease('v', 'a').release(false)
    const keys = await Promise.all((await mastersOf(client!)).map(node => node.keys(`${prefix}:*`)))
    t.ok(keys.every(each => each.length > 0), 'every master has some')
    t.same((await Promise.all(keys.flat().map(key => client?.pttl(key)))).filter(ttl => ttl === -1), [])
    t.same(keys.flat().filter(key => !/^[\w-]+:cache:(entry|tag|claim):[\w#-]+$/.test(key)), [])
  })

  t.test(`${name}: damaged entries read as a miss, and are replaced`, async t => {
    const { store, client, prefix } = await open(t, name)
    const key = `${prefix}:cache:entry:${hashId('a')}`
    await put({ store }, 'a')
    const frame = await client?.getBuffer(key) ?? Buffer.alloc(0)
    const damaged = [1, 2, 12, 13, 16, 17, 18, 40, frame.length - 1].map(length => frame.subarray(0, length))
    damaged.push(Buffer.from('x'), Buffer.concat([Buffer.from([0x7f]), randomBytes(200)]), Buffer.alloc(40, 0xff), Buffer.concat([frame, frame]), Buffer.concat([Buffer.from([1]), frame.subarray(1)]))
    for (const bytes of damaged) {
      await client?.set(key, bytes, 'PX', 60_000)
      const found = [await has({ store }, 'a'), await put({ store }, 'a'), await has({ store }, 'a')]
      t.same(found, [false, true, true], bytes.toString('hex').slice(0, 40))
    }
  })
})

t.test('redis: without a clock in the options the time is the server\'s own', async t => {
  const { client, port, prefix } = await openStore(t, 'redis')
  if (!(client instanceof Redis) || port === undefined) throw new Error('a client was expected')
  const store = new RedisCacheStore(port, prefix)
  const timeOf = ([seconds, micros]: Array<number | string>) => Number(seconds) * 1000 + Number(micros) / 1000
  const before = timeOf(await client.time())
  const { now } = await store.lease('w', 'a').acquire([], 60_000)
  await store.invalidate(['x'])
  const state = await store.tags(['x'])
  const at = [now, state.now, state.invalidatedAt]
  const after = timeOf(await client.time())
  t.same(at.filter(each => !(Number(each) >= before && Number(each) <= after)), [])
})

t.test('memory: the store stays within its size, and evicts the least recently used entries first', async t => {
  const store = new MemoryCacheStore(100 * 1024)
  let isThere = true
  for (let i = 0; i < 200; i++) {
    await put({ store }, `a${i}`)
    isThere &&= await has({ store }, 'a0')
  }
  t.equal(isThere, true, 'an entry that is used stays')
  const kept = await Promise.all(Array.from({ length: 200 }, (_, i) => has({ store }, `a${i}`)))
  t.ok(kept.filter(Boolean).length < 100)
  t.equal(kept[199], true)
})
