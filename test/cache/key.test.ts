import fc from 'fast-check'
import t from 'tap'
import { CacheKey, dataKey, responseKey, variantKey, type ResponseKeyParts } from '../../plugins/cache/key.js'

const base: ResponseKeyParts = { host: undefined, path: '/a', query: 'x=1&y=2', constraints: '', vary: [], owner: undefined }

t.test('keys are equal only for requests that are', async t => {
  const others: ResponseKeyParts[] = [
    base, { ...base, host: 'a' }, { ...base, host: '' }, { ...base, host: 'null' }, { ...base, path: '/a/' }, { ...base, path: '/A' }, { ...base, path: '/%61' }, { ...base, query: '' }, { ...base, query: 'x=1' },
    { ...base, query: 'x=1&y=2&y=2' }, { ...base, query: 'x=1%26y=2' }, { ...base, query: 'x=2&y=1' }, { ...base, query: 'x=1;y=2' }, { ...base, query: 'x=1&x=2' }, { ...base, query: 'x=2&x=1' }, { ...base, query: 'x&x=1' },
    { ...base, query: 'x=1&x' }, { ...base, query: 'X=1&y=2' }, { ...base, query: '&x=1&y=2' }, { ...base, path: '/a?x=1&y=2', query: '' }, { ...base, owner: '' }, { ...base, owner: 'ann' }, { ...base, owner: 'null' },
    { ...base, vary: [['accept', 'a']] }, { ...base, vary: [['accept', 'b']] }, { ...base, vary: [['accept-language', 'a']] }, { ...base, vary: [['accept', '']] }, { ...base, constraints: '{"version":"1"}' }
  ]
  const keys = [...others.map(each => responseKey(each)), dataKey('/a'), dataKey('')]
  t.equal(new Set(keys.map(key => key.text)).size, keys.length)
  t.equal(new Set(keys.map(key => key.id)).size, keys.length)
})

t.test('the order of different names in a query is none, that of equal names is', async t => {
  const same: Array<[string, string]> = [['x=1&y=2', 'y=2&x=1'], ['a=1&b=1&a=2', 'b=1&a=1&a=2'], ['b&a', 'a&b'], ['a=2&b&a=1', 'a=2&a=1&b'], ['=1&a', 'a&=1']]
  for (const [one, other] of same) t.equal(responseKey({ ...base, query: one }).id, responseKey({ ...base, query: other }).id, `${one} ${other}`)
  const different: Array<[string, string]> = [['a=1&a=2', 'a=2&a=1'], ['a&a=1', 'a=1&a'], ['a=1&b=2', 'a=2&b=1'], ['a=&b', 'a&b'], ['a=b=1&a=c', 'a=c&a=b=1']]
  for (const [one, other] of different) t.not(responseKey({ ...base, query: one }).id, responseKey({ ...base, query: other }).id, `${one} ${other}`)
})

// Few characters, so that what is alike is met often.
const text = fc.oneof(fc.string({ unit: fc.constantFrom(...'a="[],\\&'), maxLength: 4 }), fc.string({ unit: 'binary', maxLength: 3 }))
const pair = fc.tuple(fc.constantFrom('a', 'b', ''), fc.constantFrom('', '=', '=1', '=2', '==')).map(([name, value]) => name + value)
const query = fc.array(pair, { maxLength: 5 }).map(pairs => pairs.join('&'))
const parts = fc.record({ host: fc.option(text, { nil: undefined }), path: text, query, constraints: text, vary: fc.array(fc.tuple(text, text), { maxLength: 2 }), owner: fc.option(text, { nil: undefined }) })

/** Of each name its values in order. */
function meaningOf (given: string): Record<string, string[]> {
  const values: Record<string, string[]> = {}
  for (const each of given.split('&')) (values[each.split('=', 1)[0] ?? ''] ??= []).push(each)
  return values
}
const sorted = (given: Record<string, string[]>) => JSON.stringify(Object.entries(given).sort(([a], [b]) => a < b ? -1 : 1))

t.test('no two different requests share a key, whatever is in them', async () => {
  fc.assert(fc.property(parts, parts, (one, other) => {
    const { query: a, ...restA } = one
    const { query: b, ...restB } = other
    const isSame = JSON.stringify([restA, restA.host ?? null, restA.owner ?? null]) === JSON.stringify([restB, restB.host ?? null, restB.owner ?? null]) && sorted(meaningOf(a)) === sorted(meaningOf(b))
    return (responseKey(one).text === responseKey(other).text) === isSame
  }), { numRuns: 3000 })
  fc.assert(fc.property(query, query, (a, b) => (responseKey({ ...base, query: a }).text === responseKey({ ...base, query: b }).text) === (sorted(meaningOf(a)) === sorted(meaningOf(b)))), { numRuns: 3000 })
  fc.assert(fc.property(parts, text, (one, name) => responseKey(one).text !== dataKey(name).text))
})

t.test('the id is a digest that can be told from any other', async t => {
  fc.assert(fc.property(text, text, (one, other) => (dataKey(one).id === dataKey(other).id) === (one === other)), { numRuns: 1000 })
  t.match(dataKey('a').id, /^[\w-]{43}$/)
  const key = dataKey('a')
  t.equal(key.id, key.id)
})

t.test('a label is the URL with its query sorted, or the name of what is kept', async t => {
  t.equal(responseKey(base).label, '/a?x=1&y=2')
  t.equal(responseKey({ ...base, query: 'y=2&x=1', owner: 'ann', host: 'h' }).label, '/a?x=1&y=2')
  t.equal(responseKey({ ...base, query: '' }).label, '/a')
  t.equal(dataKey('products:1').label, 'products:1')
})

t.test('variants are told apart by the request headers that are named, and die with the list that names them', async t => {
  const key = new CacheKey('k', '/a')
  const meta = { names: ['accept', 'x-a'], nonce: 'n', ids: [], origin: '' }
  const of = (headers: Record<string, string | string[]>, change: Partial<typeof meta> = {}, of = key) => variantKey(of, { ...meta, ...change }, headers).id
  t.equal(of({ accept: 'a, b', other: '1' }), of({ accept: 'a,b', other: '2' }))
  t.equal(of({ accept: ['a', 'b'] }), of({ accept: 'a,b' }))
  t.equal(variantKey(key, meta, {}).label, '/a')
  const all = [of({}), of({ accept: '' }), of({ accept: 'a' }), of({ 'x-a': 'a' }), of({ accept: 'a', 'x-a': 'b' }), of({ accept: 'a,b' }), of({ accept: 'a' }, { nonce: 'm' }), of({ accept: 'a' }, { names: ['accept'] }), of({ accept: 'a' }, {}, new CacheKey('l', '/a'))]
  t.equal(new Set(all).size, all.length)
})
