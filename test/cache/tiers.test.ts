import t from 'tap'
import type { Entry } from '../../plugins/cache/store/entry.js'
import { CacheKey } from '../../plugins/cache/store/cache-key.js'
import { L1 } from '../../plugins/cache/tiers/l1.js'
import { MemoryCacheStore } from '../../plugins/cache/store/memory-store.js'
import { StoreClock } from '../../plugins/cache/tiers/store-clock.js'
import { ALL_TAG, PATTERN_TAG } from '../../plugins/cache/store/store.js'
import { createTestClock } from '../../plugins/testing/index.js'

// L1

const key = (name: string) => new CacheKey(name, name)
const entry = (tags: string[] = [], change: Partial<Entry> = {}): Entry => ({ kind: 'value', label: '', meta: {}, body: Buffer.from('x'), storedAt: 1000, deleteAt: 1500, tags: Object.fromEntries(tags.map(tag => [tag, 'v'])), ...change })
const a = key('a')

t.test('an entry is read until deleteAt, and is dropped then', async t => {
  const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
  const kept = entry()
  l1.set(a, kept, l1.epoch)
  t.same(l1.get(a, 1000), kept)
  t.same(l1.get(a, 1499), kept)
  t.equal(l1.get(key('b'), 1000), undefined)
  t.equal(l1.size, 1)
  t.equal(l1.get(a, 1500), undefined)
  t.equal(l1.size, 0)
})

t.test('an entry is dropped once one of its tags is invalidated, and one that was read afterwards is served', async t => {
  const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
  l1.set(a, entry(['t', 'u']), l1.epoch)
  l1.set(key('b'), entry(['v']), l1.epoch)
  l1.invalidate(['w', 'u'])
  t.equal(l1.get(a, 1000), undefined)
  t.ok(l1.get(key('b'), 1000), 'another tag\'s stays')
  l1.set(a, entry(['t', 'u']), l1.epoch)
  t.ok(l1.get(a, 1000))
})

t.test('L1 does not keep an entry whose read began before an invalidation, a removal or a clear()', async t => {
  const table: Array<[string, (l1: L1) => void, boolean]> = [
    ['its tag', l1 => l1.invalidate(['t']), false], ['another tag', l1 => l1.invalidate(['x']), true], ['all', l1 => l1.invalidate([ALL_TAG]), false], ['a pattern', l1 => l1.invalidate(['x', PATTERN_TAG]), false],
    ['its key', l1 => l1.remove([a.id]), false], ['another key', l1 => l1.remove([key('b').id]), true], ['a clearing', l1 => l1.clear(), false], ['nothing', () => {}, true]
  ]
  for (const [name, change, isKept] of table) {
    const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
    const mark = l1.epoch
    change(l1)
    l1.set(a, entry(['t']), mark)
    t.equal(l1.get(a, 1000) !== undefined, isKept, name)
    l1.set(a, entry(['t']), l1.epoch)
    t.ok(l1.get(a, 1000), `L1 keeps a read after ${name}`)
    change(l1)
    t.equal(l1.get(a, 1000) !== undefined, isKept, `${name} again`)
  }
})

t.test('remove() drops a key, and no other one', async t => {
  const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
  for (const name of ['a', 'b', 'c']) l1.set(key(name), entry(), l1.epoch)
  l1.remove([a.id, key('c').id, key('absent').id])
  t.same(['a', 'b', 'c'].map(name => l1.get(key(name), 1000) !== undefined), [false, true, false])
})

t.test('a key that was set twice, or again after it was dropped, can be removed', async t => {
  const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
  l1.set(a, entry(), l1.epoch)
  l1.set(a, entry(), l1.epoch)
  l1.get(a, 9999)
  l1.set(a, entry(), l1.epoch)
  l1.remove([a.id])
  t.equal(l1.get(a, 1000), undefined)
})

t.test('L1 stays within its size, evicts the least recently used entry first, and does not keep an entry larger than itself', async t => {
  const l1 = new L1({ maxSize: 10 * 1024, maxAge: undefined })
  for (let i = 0; i < 100; i++) {
    l1.set(key(String(i)), entry([], { body: Buffer.alloc(1000) }), l1.epoch)
    l1.get(key('0'), 1000)
    t.ok(l1.bytes <= 10 * 1024)
  }
  t.equal(l1.size, 5)
  t.ok(l1.get(key('0'), 1000), 'it was used')
  t.equal(l1.get(key('1'), 1000), undefined)
  l1.set(a, entry(), l1.epoch)
  l1.set(a, entry([], { body: Buffer.alloc(10 * 1024) }), l1.epoch)
  t.equal(l1.get(a, 1000), undefined, 'the entry that it was to replace is dropped as well')
  l1.remove([a.id])
  l1.clear()
  t.same([l1.size, l1.bytes], [0, 0])
})

t.test('when more tags were invalidated than L1 remembers, entries read before the forgotten invalidations are dropped', async t => {
  const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
  l1.set(a, entry(['first']), l1.epoch)
  const before = l1.epoch
  l1.invalidate(['first'])
  l1.set(key('b'), entry(['other']), l1.epoch)
  for (let i = 0; i < 100_000; i++) l1.invalidate([`t${i}`])
  t.equal(l1.get(a, 1000), undefined)
  l1.set(a, entry(['first']), before)
  t.equal(l1.get(a, 1000), undefined, 'an entry that was being read is not kept either')
  t.ok(l1.get(key('b'), 1000), 'an entry that was read later is served')
  l1.set(a, entry(['first']), l1.epoch)
  t.ok(l1.get(a, 1000))
})

t.test('when more keys were removed than L1 remembers, entries whose read began before the forgotten removals are not kept', async t => {
  const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
  l1.set(key('b'), entry(), l1.epoch)
  const before = l1.epoch
  l1.remove([a.id])
  for (let i = 0; i < 10_000; i++) l1.remove([`id${i}`])
  l1.set(a, entry(), before)
  t.equal(l1.get(a, 1000), undefined)
  t.ok(l1.get(key('b'), 1000), 'an entry that L1 had stays')
  l1.set(a, entry(), l1.epoch)
  t.ok(l1.get(a, 1000))
})

t.test('a tag may have any name', async t => {
  const l1 = new L1({ maxSize: 1024 ** 2, maxAge: undefined })
  for (const tag of ['constructor', 'toString', '', '\0', '🫖']) {
    l1.set(a, entry([tag]), l1.epoch)
    t.ok(l1.get(a, 1000), tag)
    l1.invalidate([tag])
    t.equal(l1.get(a, 1000), undefined, tag)
  }
})

// The memory store

const T0 = 1_700_000_000_000
function build (maxSize = 1024 ** 2) {
  const clock = createTestClock({ now: T0 })
  return { store: new MemoryCacheStore(maxSize, clock), clock }
}
const entryOf = (tags: Record<string, string> = {}, change: Partial<Entry> = {}): Entry => ({ kind: 'value', label: 'a', meta: {}, body: Buffer.from('x'), storedAt: T0, deleteAt: T0 + 1000, tags, ...change })

t.test('an entry that was written is read, with a token, until deleteAt', async t => {
  const { store, clock } = build()
  t.match(await store.read('a', ['t']), { entry: undefined, token: '' })
  const kept = entryOf()
  t.equal(await store.write('a', kept, ''), true)
  const found = await store.read('a', [])
  t.same(found.entry, kept)
  t.not(found.token, '')
  await clock.advance(999)
  t.same((await store.read('a', [])).entry, kept)
  await clock.advance(2)
  t.match(await store.read('a', []), { entry: undefined, token: '' })
})

t.test('of two writers with the same token only the first one writes', async t => {
  const { store } = build()
  const { token } = await store.read('a', [])
  t.equal(await store.write('a', entryOf({}, { label: 'first' }), token), true)
  t.equal(await store.write('a', entryOf({}, { label: 'second' }), token), false)
  const found = await store.read('a', [])
  t.equal(found.entry?.label, 'first')
  t.equal(await store.write('a', entryOf({}, { label: 'third' }), found.token), true)
})

t.test('an entry whose fill began before a removal is not stored while the tombstone stands', async t => {
  const { store, clock } = build()
  const { token } = await store.read('a', [])
  t.equal(await store.remove('a'), false, 'there was no entry')
  t.equal(await store.write('a', entryOf(), token), false)
  const after = await store.read('a', [])
  t.equal(await store.write('a', entryOf(), after.token), true)
  t.equal(await store.remove('a'), true)
  t.equal((await store.read('a', [])).entry, undefined)
  t.equal(await store.remove('a'), false, 'the entry has been removed')
  await clock.advance(10 * 60 * 1000 - 1)
  t.equal(await store.write('a', entryOf(), token), false)
  await clock.advance(2)
  t.equal(await store.write('a', entryOf(), token), true)
})

t.test('an entry is invalid once one of its tags is invalidated, and so is one whose fill began before that', async t => {
  const { store } = build()
  const { versions } = await store.lease('w', 'token').acquire([ALL_TAG, 't', 'u'], 1000)
  await store.write('a', entryOf(versions), '')
  await store.invalidate(['other'])
  t.ok((await store.read('a', [])).entry)
  await store.invalidate(['u'])
  const found = await store.read('a', [])
  t.equal(found.entry, undefined)
  await store.write('a', entryOf(versions), found.token)
  t.equal((await store.read('a', [])).entry, undefined)
  const { versions: next } = await store.lease('w2', 'token').acquire([ALL_TAG, 't', 'u'], 1000)
  t.not(next['u'], versions['u'])
  t.equal(next['t'], versions['t'])
  await store.write('a', entryOf(next), (await store.read('a', [])).token)
  t.ok((await store.read('a', [])).entry)
  await store.invalidate([ALL_TAG])
  t.equal((await store.read('a', [])).entry, undefined)
})

t.test('an entry with a tag that the store does not know is invalid', async t => {
  const { store } = build()
  await store.write('a', entryOf({ t: '0-1' }), '')
  t.equal((await store.read('a', ['t'])).entry, undefined)
})

t.test('read() returns the versions of tags, and tags() when they were invalidated last', async t => {
  const { store, clock } = build()
  t.same((await store.read('a', ['t', 'u'])).versions, { [ALL_TAG]: undefined, t: undefined, u: undefined })
  const { versions } = await store.lease('w', 'token').acquire(['t', '__proto__'], 1000)
  t.equal(Object.hasOwn(versions, '__proto__'), true)
  t.equal((await store.read('a', ['t'])).versions['t'], versions['t'])
  t.match(await store.tags(['t', 'new']), { versions: { t: versions['t'] }, invalidatedAt: 0 })
  await clock.advance(5)
  await store.invalidate(['t', 't'])
  const first = await store.tags(['t'])
  await store.invalidate(['t'])
  const second = await store.tags(['t'])
  t.same([first.invalidatedAt, second.invalidatedAt], [T0 + 5, T0 + 5])
  t.not(first.versions['t'], second.versions['t'], 'each invalidation has a version of its own')
  t.same([second.now, store.skew], [T0 + 5, 0])
})

t.test('a fill has one leader, until its lease is released or expires', async t => {
  const { store, clock } = build()
  const claim = async (token: string) => (await store.lease('w', token).acquire([], 1000)).kind
  t.equal(await claim('a'), 'acquired')
  t.equal(await claim('b'), 'held')
  t.equal((await store.lease('other', 'b').acquire([], 1000)).kind, 'acquired')
  await store.lease('w', 'b').release(true)
  t.equal(await claim('b'), 'held', 'another caller cannot release it')
  await clock.advance(999)
  await store.lease('w', 'a').renew(1000)
  await store.lease('w', 'b').renew(9000)
  await clock.advance(999)
  t.equal(await claim('b'), 'held')
  await clock.advance(1)
  t.equal(await claim('b'), 'acquired', 'it was not renewed')
  await store.lease('w', 'a').renew(9000)
  await store.lease('w', 'a').release(true)
  t.equal(await claim('c'), 'held')
  await store.lease('w', 'b').release(true)
  t.equal(await claim('c'), 'acquired')
})

t.test('after a fill that is not shareable callers proceed without waiting', async t => {
  const { store, clock } = build()
  const claim = async (token: string) => (await store.lease('w', token).acquire([], 5000)).kind
  await claim('a')
  await store.lease('w', 'a').release(false)
  t.same([await claim('b'), await claim('c')], ['hit-for-pass', 'hit-for-pass'])
  await store.lease('w', '').release(true)
  await clock.advance(1000)
  t.equal(await claim('b'), 'acquired')
})

t.test('the memory store stays within its size, and evicts the least recently used entries', async t => {
  const { store } = build(10 * 1024)
  await store.write('used', entryOf(), '')
  for (let i = 0; i < 20; i++) {
    await store.write(`k${i}`, entryOf(), '')
    t.ok((await store.read('used', [])).entry)
  }
  t.equal((await store.read('k0', [])).entry, undefined)
  t.ok((await store.read('k19', [])).entry)
  await store.write('big', entryOf({}, { body: Buffer.alloc(10 * 1024) }), '')
  t.equal((await store.read('big', [])).entry, undefined)
  t.ok((await store.read('k19', [])).entry, 'an entry that is too large evicts nothing')
})

t.test('entries with a matching label are removed and counted', async t => {
  const { store } = build()
  for (const label of ['/a/1', '/a/2', '/b']) await store.write(label, entryOf({}, { label }), '')
  await store.remove('/a/2')
  t.equal(await store.removeMatching(label => label.startsWith('/a/')), 1)
  t.equal((await store.read('/a/1', [])).entry, undefined)
  t.ok((await store.read('/b', [])).entry)
  t.equal(await store.removeMatching(() => false), 0)
})

// The clock of the store

const AHEAD = 1000

/** A store with a clock that is ahead. Each of its replies takes a given number of milliseconds, all of them on the way there. */
function replyingAfter (...delays: number[]) {
  const local = createTestClock()
  let asked = 0
  const clock = new StoreClock(local, async () => {
    await local.advance(delays[asked++] ?? 0)
    return local.now() + AHEAD
  })
  /** Waits for the attempts that run in the background. */
  const settled = async () => { for (let turn = 0; turn < 100; turn++) await new Promise(resolve => setImmediate(resolve)) }
  return { clock, local, settled, asked: () => asked, error: () => local.monotonic() + clock.offset - local.now() - AHEAD }
}

t.test('a late reply is replaced by prompter ones, until one is prompt', async t => {
  const { clock, settled, asked, error } = replyingAfter(80, 60, 0)
  await clock.set()
  t.equal(error(), 40, 'the error is half of the delay at first')
  t.equal(clock.isSet, true)
  await settled()
  t.equal(error(), 0)
  t.equal(asked(), 3)
})

t.test('where all replies are late the store is asked five times, and the promptest reply counts', async t => {
  const { clock, settled, asked, error } = replyingAfter(200, 30, 120, 120, 120, 0)
  await clock.set()
  await settled()
  t.equal(asked(), 5)
  t.equal(error(), 15)
})

t.test('the store is asked again after a minute', async t => {
  const { clock, local } = replyingAfter()
  await clock.set()
  await local.advance('1m')
  t.equal(clock.isSet, true)
  await local.advance(1)
  t.equal(clock.isSet, false)
})

t.test('without a reply the clock is not set', async t => {
  const clock = new StoreClock(createTestClock(), async () => undefined)
  await clock.set()
  t.equal(clock.isSet, false)
})
