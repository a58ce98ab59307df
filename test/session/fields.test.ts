import t from 'tap'
import { diff, parseFields, takeSnapshot } from '../../plugins/session/fields.js'

t.test('a difference is what was set and what was taken away', async t => {
  const before = takeSnapshot({ a: 1, b: { deep: [1] }, c: 'x', gone: true })
  const after = takeSnapshot({ a: 1, b: { deep: [1, 2] }, c: undefined, d: new Date(0) })
  t.same(diff(before, after), { set: { b: '{"deep":[1,2]}', d: '"1970-01-01T00:00:00.000Z"' }, delete: ['c', 'gone'] })
  t.same(diff(before, before), { set: {}, delete: [] })
})

t.test('stored fields that would reach a prototype or hide a method are left out', async t => {
  const fields = Object.fromEntries([['__proto__', '{"admin":true}'], ['constructor', '1'], ['save', '1'], ['a', '{"__proto__":{"admin":true}}']])
  const parsed = parseFields(fields)
  t.same(Object.keys(parsed ?? {}), ['a'])
  t.equal(Reflect.get(parsed ?? {}, 'admin'), undefined)
  t.equal(Reflect.get({}, 'admin'), undefined)
})

t.test('what cannot be parsed is no session', async t => {
  t.equal(parseFields({ a: '{', b: '1' }), undefined)
  t.equal(parseFields({ a: '' }), undefined)
})
