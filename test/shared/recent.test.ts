import t from 'tap'
import { Recent } from '../../plugins/shared/data/recent.js'

t.test('the values that were used last are kept, and never more than twice the size', async t => {
  const recent = new Recent<number>(10)
  const kept = () => Array.from({ length: 200 }, (_, i) => recent.get(`k${i}`)).filter(value => value !== undefined)
  for (let i = 0; i < 200; i++) {
    recent.set(`k${i}`, i)
    t.equal(recent.get('k0'), 0, 'one that is used stays')
    t.equal(recent.get(`k${Math.max(0, i - 3)}`), Math.max(0, i - 3))
  }
  t.ok(kept().length <= 20, String(kept().length))
  recent.set('k0', 1)
  t.equal(recent.get('k0'), 1)
})
