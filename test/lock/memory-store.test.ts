import t from 'tap'
import { createMemoryStore } from '../../plugins/lock/memory-store.js'
import { heapInUse } from '../helpers/timing/heap.js'

t.test('locks that ended by their ttl take no memory, also behind one that stands for long', async t => {
  const store = createMemoryStore({ call () {}, callAll () {} })
  await store.take('long', 'owner', 86_400_000, 0)
  const before = heapInUse()
  for (let i = 0; i < 50_000; i++) await store.take(`short-${i}`, 'owner', 0, 0)
  t.ok(heapInUse() - before < 2_000_000)
  t.equal(await store.isLocked('long'), true)
})
