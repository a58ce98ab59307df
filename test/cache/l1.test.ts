import t from 'tap'
import { CacheKey } from '../../plugins/cache/key.js'
import { L1 } from '../../plugins/cache/l1.js'
import { EVERYTHING, PATTERNS } from '../../plugins/cache/store.js'
import type { Entry } from '../../plugins/cache/entry.js'

const key = (name: string) => new CacheKey(name, name)
const entry = (tags: string[] = [], change: Partial<Entry> = {}): Entry => ({ kind: 'value', label: '', meta: {}, body: Buffer.from('x'), storedAt: 1000, life: 500, tags: Object.fromEntries(tags.map(tag => [tag, 'v'])), ...change })
const a = key('a')

t.test('an entry is there until its life ends, and is dropped then', async t => {
  const l1 = new L1(1024 ** 2)
  const kept = entry()
  l1.set(a, kept, l1.mark)
  t.same(l1.get(a, 1000), kept)
  t.same(l1.get(a, 1499), kept)
  t.equal(l1.get(key('b'), 1000), undefined)
  t.equal(l1.size, 1)
  t.equal(l1.get(a, 1500), undefined)
  t.equal(l1.size, 0)
})

t.test('an entry is gone once one of its tags is invalidated, and one that was read afterwards is not', async t => {
  const l1 = new L1(1024 ** 2)
  l1.set(a, entry(['t', 'u']), l1.mark)
  l1.set(key('b'), entry(['v']), l1.mark)
  l1.invalidate(['w', 'u'])
  t.equal(l1.get(a, 1000), undefined)
  t.ok(l1.get(key('b'), 1000), 'another tag\'s stays')
  l1.set(a, entry(['t', 'u']), l1.mark)
  t.ok(l1.get(a, 1000))
})

t.test('a read that began before an invalidation, a removal or a clearing is not kept', async t => {
  const table: Array<[string, (l1: L1) => void, boolean]> = [
    ['its tag', l1 => l1.invalidate(['t']), false], ['another tag', l1 => l1.invalidate(['x']), true], ['all', l1 => l1.invalidate([EVERYTHING]), false], ['a pattern', l1 => l1.invalidate(['x', PATTERNS]), false],
    ['its key', l1 => l1.remove([a.id]), false], ['another key', l1 => l1.remove([key('b').id]), true], ['a clearing', l1 => l1.clear(), false], ['nothing', () => {}, true]
  ]
  for (const [name, change, isKept] of table) {
    const l1 = new L1(1024 ** 2)
    const mark = l1.mark
    change(l1)
    l1.set(a, entry(['t']), mark)
    t.equal(l1.get(a, 1000) !== undefined, isKept, name)
    l1.set(a, entry(['t']), l1.mark)
    t.ok(l1.get(a, 1000), `a read after ${name} is kept`)
    change(l1)
    t.equal(l1.get(a, 1000) !== undefined, isKept, `${name} again`)
  }
})

t.test('a removed key is gone, and only it', async t => {
  const l1 = new L1(1024 ** 2)
  for (const name of ['a', 'b', 'c']) l1.set(key(name), entry(), l1.mark)
  l1.remove([a.id, key('c').id, key('absent').id])
  t.same(['a', 'b', 'c'].map(name => l1.get(key(name), 1000) !== undefined), [false, true, false])
})

t.test('a key that was set again, or came back after it was dropped, can be removed', async t => {
  const l1 = new L1(1024 ** 2)
  l1.set(a, entry(), l1.mark)
  l1.set(a, entry(), l1.mark)
  l1.get(a, 9999)
  l1.set(a, entry(), l1.mark)
  l1.remove([a.id])
  t.equal(l1.get(a, 1000), undefined)
})

t.test('it takes no more bytes than it may, the least used goes first, and what is larger than all is not kept', async t => {
  const l1 = new L1(10 * 1024)
  for (let i = 0; i < 100; i++) {
    l1.set(key(String(i)), entry([], { body: Buffer.alloc(1000) }), l1.mark)
    l1.get(key('0'), 1000)
    t.ok(l1.bytes <= 10 * 1024)
  }
  t.equal(l1.size, 5)
  t.ok(l1.get(key('0'), 1000), 'it was used')
  t.equal(l1.get(key('1'), 1000), undefined)
  l1.set(a, entry(), l1.mark)
  l1.set(a, entry([], { body: Buffer.alloc(10 * 1024) }), l1.mark)
  t.equal(l1.get(a, 1000), undefined, 'nor is what it was to replace')
  l1.remove([a.id])
  l1.clear()
  t.same([l1.size, l1.bytes], [0, 0])
})

t.test('when more tags were invalidated than it remembers, what was read before the forgotten ones is gone', async t => {
  const l1 = new L1(1024 ** 2)
  l1.set(a, entry(['first']), l1.mark)
  const before = l1.mark
  l1.invalidate(['first'])
  l1.set(key('b'), entry(['other']), l1.mark)
  for (let i = 0; i < 100_000; i++) l1.invalidate([`t${i}`])
  t.equal(l1.get(a, 1000), undefined)
  l1.set(a, entry(['first']), before)
  t.equal(l1.get(a, 1000), undefined, 'nor is kept what was being read')
  t.ok(l1.get(key('b'), 1000), 'what was read after that is not in doubt')
  l1.set(a, entry(['first']), l1.mark)
  t.ok(l1.get(a, 1000))
})

t.test('when more keys were removed than it remembers, what was being read before the forgotten ones is not kept', async t => {
  const l1 = new L1(1024 ** 2)
  l1.set(key('b'), entry(), l1.mark)
  const before = l1.mark
  l1.remove([a.id])
  for (let i = 0; i < 10_000; i++) l1.remove([`id${i}`])
  l1.set(a, entry(), before)
  t.equal(l1.get(a, 1000), undefined)
  t.ok(l1.get(key('b'), 1000), 'what was there stays')
  l1.set(a, entry(), l1.mark)
  t.ok(l1.get(a, 1000))
})

t.test('a tag may have any name', async t => {
  const l1 = new L1(1024 ** 2)
  for (const tag of ['constructor', 'toString', '', '\0', '🫖']) {
    l1.set(a, entry([tag]), l1.mark)
    t.ok(l1.get(a, 1000), tag)
    l1.invalidate([tag])
    t.equal(l1.get(a, 1000), undefined, tag)
  }
})
