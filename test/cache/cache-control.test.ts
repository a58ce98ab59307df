import fc from 'fast-check'
import t from 'tap'
import { fieldsOf, parseCacheControl, parseTargeted, secondsOf } from '../../plugins/cache/cache-control.js'

type Pairs = Record<string, string | true>
const pairs = (directives: ReadonlyMap<string, string | true> | undefined): Pairs | undefined => directives && Object.fromEntries(directives)

t.test('a field is its directives, by name in lower case', async t => {
  const table: Array<[string | undefined, Pairs]> = [
    [undefined, {}], ['', {}], [' ', {}], [',', {}], [' ,\t, ,', {}],
    ['no-store', { 'no-store': true }], ['No-Store', { 'no-store': true }], ['MAX-AGE=5', { 'max-age': '5' }],
    ['max-age=5, public', { 'max-age': '5', public: true }], ['max-age=5,public', { 'max-age': '5', public: true }], [',,max-age=5 ,\t,public,', { 'max-age': '5', public: true }],
    ['max-age="5"', { 'max-age': '5' }], ['max-age=-5', { 'max-age': '-5' }], ['max-age=5.5', { 'max-age': '5.5' }], ['max-age=1e3', { 'max-age': '1e3' }],
    ['x="a, no-store, b"', { x: 'a, no-store, b' }], ['x="a\\"b, no-store"', { x: 'a"b, no-store' }], ['x="\\\\", public', { x: '\\', public: true }], ['x=""', { x: '' }],
    ['x="a\tb"', { x: 'a\tb' }], ['x="é"', { x: 'é' }], ['no-cache="Set-Cookie, X-A"', { 'no-cache': 'Set-Cookie, X-A' }],
    ["!#$%&'*+-.^_`|~09=!#$%&'*+-.^_`|~09", { "!#$%&'*+-.^_`|~09": "!#$%&'*+-.^_`|~09" }], ['__proto__=1, constructor', Object.fromEntries([['__proto__', '1'], ['constructor', true]])]
  ]
  for (const [field, expected] of table) t.strictSame(pairs(parseCacheControl(field)), expected, String(field))
})

t.test('a field that is no list of directives is none at all, wherever it is wrong', async t => {
  const table = ['max-age=', 'max-age =5', 'max-age= 5', '=5', '=', 'max-age=5 public', 'public; max-age=5', 'max-age=5;public', 'x="a', 'x="a\\"', 'x="a"b', 'x=a"b"', '"no-store"', 'x=\'a b\'', 'no store',
    'no-store\u0000', 'x="\u0000"', 'x="a\nb"', 'x="\u007f"', 'x="\\\u0001"', 'no-störe', 'public, (', 'public, max-age==5', 'a/b', 'public\nno-store', 'x=[1]', 'x={}', '{"max-age":5}']
  for (const field of table) t.equal(parseCacheControl(field), undefined, JSON.stringify(field))
})

t.test('of a directive that is there twice the first one counts', async t => {
  t.strictSame(pairs(parseCacheControl('max-age=5, max-age=9, MAX-AGE=7')), { 'max-age': '5' })
  t.strictSame(pairs(parseCacheControl('max-age, max-age=9')), { 'max-age': true })
})

t.test('of private and no-cache that are there twice, or name no field, the one that forbids most counts', async t => {
  for (const name of ['private', 'no-cache']) {
    const table: Array<[string, string | true]> = [
      [`${name}="a", ${name}`, true], [`${name}, ${name}="a"`, true], [`${name}="a", ${name}="b"`, 'a,b'], [`${name}=""`, true], [`${name}=" , "`, true], [`${name}=a`, 'a']
    ]
    for (const [field, expected] of table) t.equal(parseCacheControl(field)?.get(name), expected, field)
  }
})

t.test('whatever directives are written are the ones that are read', async t => {
  const TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
  const token = fc.string({ unit: fc.constantFrom(...TOKEN), minLength: 1 }).filter(name => name !== 'private' && name !== 'no-cache')
  const quoted = fc.string({ unit: fc.constantFrom(...'\t !"#$,;=\\az~\u0080\u00ff'), minLength: 0 })
  const quote = (text: string) => `"${text.replaceAll(/["\\]/g, '\\$&')}"`
  fc.assert(fc.property(fc.uniqueArray(fc.tuple(token, fc.option(quoted)), { selector: ([name]) => name }), given => {
    const field = given.map(([name, value]) => value === null ? name : `${name}=${quote(value)}`).join(', ')
    t.strictSame([...parseCacheControl(field) ?? []], given.map(([name, value]) => [name, value ?? true]))
  }))
})

t.test('no field makes it throw, or take long', async t => {
  fc.assert(fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom(...'a=",\\ 1') })), field => {
    parseCacheControl(field)
    parseTargeted(field)
  }), { numRuns: 1000 })
  const started = performance.now()
  for (const field of [','.repeat(65_536), ' '.repeat(65_536), `x="${'a'.repeat(65_536)}`, `x="${'\\a'.repeat(32_768)}`, 'a'.repeat(65_536) + '@', 'a=1,'.repeat(16_384)]) parseCacheControl(field)
  t.ok(performance.now() - started < 2000)
})

t.test('a targeted field is a dictionary of RFC 9213', async t => {
  const table: Array<[string, Pairs]> = [
    ['max-age=60', { 'max-age': '60' }], ['no-store', { 'no-store': true }], ['max-age=60, must-revalidate', { 'max-age': '60', 'must-revalidate': true }],
    ['max-age=60;x=1, public;y', { 'max-age': '60', public: true }], ['max-age=1, max-age=2', { 'max-age': '2' }], ['no-cache="set-cookie"', { 'no-cache': 'set-cookie' }],
    ['no-store=?0, max-age=1', { 'max-age': '1' }], ['no-store=?1', { 'no-store': true }], ['max-age=0', { 'max-age': '0' }]
  ]
  for (const [field, expected] of table) t.strictSame(pairs(parseTargeted(field)), expected, field)
})

t.test('a targeted field that is empty, cannot be parsed or has a wrong type does not count', async t => {
  const table = [undefined, '', ' ', 'max-age=60,', 'max-age', 'max-age=ten', 'max-age="60"', 'max-age=1.5', 'max-age=-1', 's-maxage=?0', 'stale-if-error=:AAAA:', 'max-age=(1 2)', 'Max-Age=60', 'max-age = 60', 'max-age=1 no-store',
    '"no-store"', '=', 'max-age=9999999999999999', 'x="a', 'no-störe', 'no-store=?0']
  for (const field of table) t.equal(parseTargeted(field), undefined, String(field))
})

t.test('a targeted directive that forbids does so whatever its value is', async t => {
  for (const name of ['no-store', 'must-revalidate', 'private', 'no-cache']) {
    for (const value of ['foo', '1.5', '(a b)', ':AAAA:', '1', '""', '("")']) t.equal(parseTargeted(`${name}=${value}, max-age=60`)?.has(name), true, `${name}=${value}`)
  }
  for (const value of ['1.5', '("a")', ':AAAA:', '""']) t.equal(parseTargeted(`private=${value}`)?.get('private'), true, value)
  t.equal(parseTargeted('private=set-cookie')?.get('private'), 'set-cookie')
})

t.test('seconds are digits, bounded where they overflow, and anything else is invalid', async t => {
  const table: Array<[string, number | 'invalid' | undefined]> = [
    ['', undefined], ['max-age=0', 0], ['max-age=007', 7], ['max-age="60"', 60], ['max-age=2147483647', 2147483647], ['max-age=2147483648', 2 ** 31], ['max-age=2147483649', 2 ** 31],
    [`max-age=${'9'.repeat(500)}`, 2 ** 31], ['max-age', 'invalid'], ['max-age=""', 'invalid'], ['max-age=-1', 'invalid'], ['max-age=+1', 'invalid'], ['max-age=1.0', 'invalid'], ['max-age=1e3', 'invalid'],
    ['max-age=0x10', 'invalid'], ['max-age=" 1"', 'invalid'], ['max-age="1 "', 'invalid'], ['max-age=Infinity', 'invalid'], ['max-age="٣"', 'invalid']
  ]
  for (const [field, expected] of table) t.equal(secondsOf(parseCacheControl(field) ?? new Map(), 'max-age'), expected, field)
})

t.test('the fields that a directive names are in lower case, without what is empty', async t => {
  const table: Array<[string, string[] | undefined]> = [['private', undefined], ['', undefined], ['private="Set-Cookie"', ['set-cookie']], ['private=" A ,, b,"', ['a', 'b']], ['private=A', ['a']]]
  for (const [field, expected] of table) t.strictSame(fieldsOf(parseCacheControl(field) ?? new Map(), 'private'), expected, field)
})
