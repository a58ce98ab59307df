import t from 'tap'
import type { Entry } from '../../plugins/cache/entry.js'
import { createMemoryStore } from '../../plugins/cache/memory-store.js'
import { EVERYTHING } from '../../plugins/cache/store.js'
import { createTestClock } from '../../plugins/testing/index.js'

const T0 = 1_700_000_000_000
function build (maxSize = 1024 ** 2) {
  const clock = createTestClock({ now: T0 })
  return { store: createMemoryStore(maxSize, clock), clock }
}
const entry = (tags: Record<string, string> = {}, change: Partial<Entry> = {}): Entry => ({ kind: 'value', label: 'a', meta: {}, body: Buffer.from('x'), storedAt: T0, life: 1000, tags, ...change })

t.test('what was written is read, with a generation, until its life ends', async t => {
  const { store, clock } = build()
  t.match(await store.read('a', ['t']), { entry: undefined, generation: '' })
  const kept = entry()
  t.equal(await store.write('a', kept, ''), true)
  const found = await store.read('a', [])
  t.same(found.entry, kept)
  t.not(found.generation, '')
  await clock.advance(999)
  t.same((await store.read('a', [])).entry, kept)
  await clock.advance(2)
  t.match(await store.read('a', []), { entry: undefined, generation: '' })
})

t.test('of two who saw the same only the first one writes', async t => {
  const { store } = build()
  const { generation } = await store.read('a', [])
  t.equal(await store.write('a', entry({}, { label: 'first' }), generation), true)
  t.equal(await store.write('a', entry({}, { label: 'second' }), generation), false)
  const found = await store.read('a', [])
  t.equal(found.entry?.label, 'first')
  t.equal(await store.write('a', entry({}, { label: 'third' }), found.generation), true)
})

t.test('what was begun before a removal is not stored, for as long as the removal is remembered', async t => {
  const { store, clock } = build()
  const { generation } = await store.read('a', [])
  t.equal(await store.remove('a'), false, 'there was none')
  t.equal(await store.write('a', entry(), generation), false)
  const after = await store.read('a', [])
  t.equal(await store.write('a', entry(), after.generation), true)
  t.equal(await store.remove('a'), true)
  t.equal((await store.read('a', [])).entry, undefined)
  t.equal(await store.remove('a'), false, 'nor is there any longer')
  await clock.advance(10 * 60 * 1000 - 1)
  t.equal(await store.write('a', entry(), generation), false)
  await clock.advance(2)
  t.equal(await store.write('a', entry(), generation), true)
})

t.test('an entry is invalid once one of its tags is, and one that began before that is so when it is written', async t => {
  const { store } = build()
  const { versions } = await store.begin('w', 'token', [EVERYTHING, 't', 'u'], 1000)
  await store.write('a', entry(versions), '')
  await store.invalidate(['other'])
  t.ok((await store.read('a', [])).entry)
  await store.invalidate(['u'])
  const found = await store.read('a', [])
  t.equal(found.entry, undefined)
  await store.write('a', entry(versions), found.generation)
  t.equal((await store.read('a', [])).entry, undefined)
  const { versions: next } = await store.begin('w2', 'token', [EVERYTHING, 't', 'u'], 1000)
  t.not(next['u'], versions['u'])
  t.equal(next['t'], versions['t'])
  await store.write('a', entry(next), (await store.read('a', [])).generation)
  t.ok((await store.read('a', [])).entry)
  await store.invalidate([EVERYTHING])
  t.equal((await store.read('a', [])).entry, undefined)
})

t.test('an entry with a tag that the store does not know is invalid', async t => {
  const { store } = build()
  await store.write('a', entry({ t: '0-1' }), '')
  t.equal((await store.read('a', ['t'])).entry, undefined)
})

t.test('a read tells the versions of tags, and when they were invalidated is told too', async t => {
  const { store, clock } = build()
  t.same((await store.read('a', ['t', 'u'])).versions, { [EVERYTHING]: undefined, t: undefined, u: undefined })
  const { versions } = await store.begin('w', 'token', ['t', '__proto__'], 1000)
  t.equal(Object.hasOwn(versions, '__proto__'), true)
  t.equal((await store.read('a', ['t'])).versions['t'], versions['t'])
  t.match(await store.tags(['t', 'new']), { t: { version: versions['t'], invalidatedAt: 0 }, new: { invalidatedAt: 0 } })
  await clock.advance(5)
  await store.invalidate(['t', 't'])
  const { t: first } = await store.tags(['t'])
  await store.invalidate(['t'])
  const { t: second } = await store.tags(['t'])
  t.same([first?.invalidatedAt, second?.invalidatedAt], [T0 + 5, T0 + 5])
  t.not(first?.version, second?.version, 'each invalidation is another one')
  t.same([await store.now(), store.skew], [T0 + 5, 0])
})

t.test('a work has one owner, until it is given back or was not kept', async t => {
  const { store, clock } = build()
  const claim = async (token: string) => (await store.begin('w', token, [], 1000)).claim
  t.equal(await claim('a'), 'mine')
  t.equal(await claim('b'), 'theirs')
  t.equal((await store.begin('other', 'b', [], 1000)).claim, 'mine')
  await store.end('w', 'b', false)
  t.equal(await claim('b'), 'theirs', 'another one cannot give it back')
  await clock.advance(999)
  await store.renew('w', 'a', 1000)
  await store.renew('w', 'b', 9000)
  await clock.advance(999)
  t.equal(await claim('b'), 'theirs')
  await clock.advance(1)
  t.equal(await claim('b'), 'mine', 'it was not kept')
  await store.renew('w', 'a', 9000)
  await store.end('w', 'a', false)
  t.equal(await claim('c'), 'theirs')
  await store.end('w', 'b', false)
  t.equal(await claim('c'), 'mine')
})

t.test('when an answer cannot be shared, those who waited for it are told so for a while', async t => {
  const { store, clock } = build()
  const claim = async (token: string) => (await store.begin('w', token, [], 5000)).claim
  await claim('a')
  await store.end('w', 'a', true)
  t.same([await claim('b'), await claim('c')], ['pass', 'pass'])
  await store.end('w', '', false)
  await clock.advance(1000)
  t.equal(await claim('b'), 'mine')
})

t.test('it takes no more bytes than it may: what was used least recently goes', async t => {
  const { store } = build(10 * 1024)
  await store.write('used', entry(), '')
  for (let i = 0; i < 20; i++) {
    await store.write(`k${i}`, entry(), '')
    t.ok((await store.read('used', [])).entry)
  }
  t.equal((await store.read('k0', [])).entry, undefined)
  t.ok((await store.read('k19', [])).entry)
  await store.write('big', entry({}, { body: Buffer.alloc(10 * 1024) }), '')
  t.equal((await store.read('big', [])).entry, undefined)
  t.ok((await store.read('k19', [])).entry, 'what is larger than all drives nothing out')
})

t.test('entries whose label passes are removed, and counted', async t => {
  const { store } = build()
  for (const label of ['/a/1', '/a/2', '/b']) await store.write(label, entry({}, { label }), '')
  await store.remove('/a/2')
  t.equal(await store.removeMatching(label => label.startsWith('/a/')), 1)
  t.equal((await store.read('/a/1', [])).entry, undefined)
  t.ok((await store.read('/b', [])).entry)
  t.equal(await store.removeMatching(() => false), 0)
})
