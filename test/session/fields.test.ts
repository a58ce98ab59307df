import fc from 'fast-check'
import t from 'tap'
import { contentsOf, diff, diffContents, joinFields, parseFields, takeSnapshot } from '../../plugins/session/fields.js'

t.test('a difference is what was set and what was taken away', async t => {
  const before = takeSnapshot({ a: 1, b: { deep: [1] }, c: 'x', gone: true })
  const after = takeSnapshot({ a: 1, b: { deep: [1, 2] }, c: undefined, d: new Date(0) })
  t.same(diff(before, after), { set: { b: '{"deep":[1,2]}', d: '"1970-01-01T00:00:00.000Z"' }, delete: ['c', 'gone'] })
  t.same(diff(before, before), { set: {}, delete: [] })
})

t.test('a difference from text is the one from what the text says', async t => {
  const objects = fc.dictionary(fc.oneof(fc.constantFrom('a', 'b', 'c', '"', 'a":1,"b', '10', '2'), fc.string({ unit: 'binary' })), fc.jsonValue(), { noNullPrototype: true })
  fc.assert(fc.property(objects, objects, fc.array(fc.boolean()), (one, other, kept) => {
    // Most of it as it was, which by chance would be rare.
    const some = Object.entries(one).filter((_, i) => kept[i] ?? true)
    for (const next of [other, { ...Object.fromEntries(some), ...other }, { ...other, ...one }, Object.fromEntries(some.reverse()), one]) {
      const after = takeSnapshot(next)
      t.same(diffContents(contentsOf(one), after), diff(takeSnapshot(JSON.parse(`{${contentsOf(one)}}`)), after), 'the same')
    }
  }), { numRuns: 300 })
  t.same(diffContents('"a":1,"b":12', { a: '1', b: '1' }), { set: { b: '1' }, delete: [] }, 'a number is not its beginning')
  t.same(diffContents('"a":1', { a: '1', b: '2' }), { set: { b: '2' }, delete: [] }, 'behind the end')
  t.same(diffContents('', {}), { set: {}, delete: [] })
})

t.test('stored fields that would reach a prototype or hide a method are left out', async t => {
  const parsed = parseFields('{"__proto__":{"admin":true},"constructor":1,"save":1,"a":{"__proto__":{"admin":true}}}')
  t.same(Object.keys(parsed ?? {}), ['a'])
  t.equal(Reflect.get(parsed ?? {}, 'admin'), undefined)
  t.equal(Reflect.get({}, 'admin'), undefined)
})

t.test('what cannot be parsed is no session', async t => {
  for (const text of ['', '{', '{"a":}', '[1]', '"a"', 'null', '1']) t.equal(parseFields(text), undefined, text)
  t.equal(parseFields('{"a":"sealed"}', () => undefined), undefined)
  t.equal(parseFields('{"a":"sealed"}', () => '{'), undefined)
  t.same(parseFields('{"a":"sealed"}', (name, sealed) => JSON.stringify([name, sealed])), { a: ['a', 'sealed'] })
})

t.test('what is joined is parsed as it was', async t => {
  const fields = { 'a"b': '1', ключ: '[{}]', '': '"\\u0000"' }
  t.same(parseFields(joinFields(fields)), { 'a"b': 1, ключ: [{}], '': '\u0000' })
  t.equal(joinFields({}), '{}')
})
