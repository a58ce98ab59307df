import fc from 'fast-check'
import { type Item, parseList, Token } from 'structured-headers'
import t from 'tap'
import { fieldsOf, parseCacheControl, parseTargeted, secondsOf } from '../../plugins/cache/rfc/cache-control.js'
import { type CacheStatus, createCacheStatus } from '../../plugins/cache/rfc/cache-status.js'
import { isNotModified, matchesEtag, parseEntityTags, validationHeaders } from '../../plugins/cache/rfc/conditional.js'
import { parseHttpDate } from '../../plugins/cache/rfc/http-date.js'
import { type ByteRange, isRangeCurrent, parseRange } from '../../plugins/cache/rfc/range.js'
import { mergeVary, normalizeSelecting, parseVary, varyOfKey } from '../../plugins/cache/rfc/vary.js'
import { cpuTimeOf } from '../helpers/timing/cpu.js'

// Cache-Control (RFC 9111 §5.2) and targeted fields (RFC 9213)

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

t.test('no Cache-Control field throws or takes long', async t => {
  fc.assert(fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom(...'a=",\\ 1') })), field => {
    parseCacheControl(field)
    parseTargeted(field)
  }), { numRuns: 1000 })
  const spent = await cpuTimeOf(() => {
    for (const field of [','.repeat(65_536), ' '.repeat(65_536), `x="${'a'.repeat(65_536)}`, `x="${'\\a'.repeat(32_768)}`, 'a'.repeat(65_536) + '@', 'a=1,'.repeat(16_384)]) parseCacheControl(field)
  })
  t.ok(spent < 2000, `${spent} ms of CPU`)
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

t.test('the fields that a directive names are in lower case, without empty ones', async t => {
  const table: Array<[string, string[] | undefined]> = [['private', undefined], ['', undefined], ['private="Set-Cookie"', ['set-cookie']], ['private=" A ,, b,"', ['a', 'b']], ['private=A', ['a']]]
  for (const [field, expected] of table) t.strictSame(fieldsOf(parseCacheControl(field) ?? new Map(), 'private'), expected, field)
})

// Vary (RFC 9111 §4.1)

t.test('Vary is a set of names in lower case, or everything', async t => {
  const table: Array<[string | undefined, string[] | '*']> = [
    [undefined, []], ['', []], [' , ', []], ['Accept', ['accept']], ['B, a ,, A,b', ['a', 'b']], ['*', '*'], ['accept, *', '*'], [' * ', '*'], ['__proto__', ['__proto__']]
  ]
  for (const [field, expected] of table) t.strictSame(parseVary(field), expected, String(field))
})

t.test('the Vary of a key names its headers and cookies, each once, beside those of the app', async t => {
  t.equal(varyOfKey(['cookie:a', 'cookie:b', 'x-a']), 'cookie, x-a')
  t.equal(varyOfKey(['host', ':authority']), undefined, 'each cache has the host in its key')
  const table: Array<[string | undefined, string]> = [
    [undefined, 'cookie, x-a'], ['', 'cookie, x-a'], ['Origin', 'Origin, cookie, x-a'], ['X-A, Cookie', 'X-A, Cookie'], ['X-A,Origin, x-a', 'X-A, Origin, cookie'], ['*', '*'], ['a, *', '*']
  ]
  for (const [field, expected] of table) t.equal(mergeVary(field, 'cookie, x-a'), expected, String(field))
})

t.test('spellings that mean the same select the same', async t => {
  const table: Array<[string, string | string[], string | string[]]> = [
    ['accept', 'a, b', 'a,b'], ['accept', ' a ,\tb ', 'a,b'], ['accept', ['a', 'b'], 'a, b'], ['x-a', 'a  b', 'a b'],
    ['accept-encoding', 'gzip, br', 'br, gzip'], ['accept-encoding', 'GZIP', 'gzip'], ['accept-encoding', 'gzip;q=1', 'gzip'], ['accept-encoding', 'gzip;q=1.000', 'gzip ; q=1'], ['accept-encoding', 'gzip;q=.5'.replace('.', '0.'), 'gzip; Q=0.50'],
    ['accept-encoding', 'gzip;q=0.5, br', 'br, gzip;q=0.5'], ['accept-encoding', 'gzip,,', 'gzip'], ['accept-language', 'en;q=0.5, FR', 'fr, en;q=0.5']
  ]
  for (const [name, one, other] of table) t.equal(normalizeSelecting(name, one), normalizeSelecting(name, other), `${name}: ${String(one)} | ${String(other)}`)
})

t.test('values that may differ in meaning select different variants', async t => {
  const table: Array<[string, string | undefined, string | undefined]> = [
    ['x-a', undefined, ''], ['accept-encoding', undefined, ''], ['accept-encoding', undefined, 'gzip;q=0'], ['accept-encoding', 'gzip', 'gzip, identity;q=0'], ['accept-encoding', '*', '*, gzip;q=0'],
    ['accept-encoding', '', 'identity;q=0'], ['accept-encoding', 'gzip;q=0', 'gzip;q=x'], ['accept-encoding', 'gzip', 'gzip;q=x'], ['accept-encoding', 'gzip;q=0.5', 'gzip;q=0.6'],
    ['accept-language', 'en, fr', 'fr, en'], ['accept-language', 'en;q=0.5, fr;q=0.5', 'fr;q=0.5, en;q=0.5'], ['accept-language', 'en', 'en-GB'], ['accept-language', 'fr', 'fr, en;q=0'],
    ['x-a', 'a', 'A'], ['x-a', 'a,b', 'b,a'], ['x-a', '"a, b"', '"a,b"'], ['x-a', '"a  b"', '"a b"'], ['x-a', 'a b', 'ab'], ['accept', 'a;q=1', 'a'], ['x-a', 'a,', 'a']
  ]
  for (const [name, one, other] of table) t.not(normalizeSelecting(name, one), normalizeSelecting(name, other), `${name}: ${one} | ${other}`)
})

t.test('a name that every object has is a header that is not there', async t => {
  const headers: Record<string, string | string[] | undefined> = {}
  for (const name of ['constructor', 'toString', '__proto__', 'hasOwnProperty']) t.equal(normalizeSelecting(name, headers[name]), normalizeSelecting(name, undefined), name)
})

t.test('normalizing a value twice changes nothing', async () => {
  const value = fc.oneof(fc.string(), fc.array(fc.constantFrom('gzip', 'br;q=0.5', 'br;q=0', '*;q=0', 'a;q=x', 'x;y=1;q=0.1', '', ' ', ';q=1', '"a, b"')).map(parts => parts.join()))
  fc.assert(fc.property(fc.constantFrom('accept-encoding', 'accept-language', 'x-a'), value, (name, given) => {
    const once = normalizeSelecting(name, given)
    return normalizeSelecting(name, once) === once
  }), { numRuns: 1000 })
})

// Dates (RFC 9110 §5.6.7)

const AT = Date.UTC(1994, 10, 6, 8, 49, 37)
const NOW = Date.UTC(2026, 0, 1)

t.test('the three forms of a date are the same moment, in any case', async t => {
  for (const text of ['Sun, 06 Nov 1994 08:49:37 GMT', 'Sunday, 06-Nov-94 08:49:37 GMT', 'Sun Nov  6 08:49:37 1994', 'SUN, 06 NOV 1994 08:49:37 gmt', 'Sun Nov 06 08:49:37 1994']) {
    t.equal(parseHttpDate(text, NOW), AT, text)
  }
})

t.test('texts that only look like dates are refused', async t => {
  const table = [undefined, '', '0', '-1', 'now', '1994-11-06T08:49:37Z', '06 Nov 1994 08:49:37 GMT', 'Sun, 06 Nov 1994 08:49:37', 'Sun, 06 Nov 1994 08:49:37 UTC', 'Sun, 06 Nov 1994 08:49:37 +0000',
    'Sun, 6 Nov 1994 08:49:37 GMT', 'Sun, 06 Nov 94 08:49:37 GMT', 'Sun, 06 Nov 1994 8:49:37 GMT', 'Sun, 06 Nov 1994 08:49 GMT', 'Sun, 06 Nvo 1994 08:49:37 GMT', 'Xyz, 06 Nov 1994 08:49:37 GMT',
    'Sun, 00 Nov 1994 08:49:37 GMT', 'Sun, 31 Nov 1994 08:49:37 GMT', 'Wed, 29 Feb 2023 00:00:00 GMT', 'Sun, 06 Nov 1994 24:00:00 GMT', 'Sun, 06 Nov 1994 08:60:37 GMT', 'Sun, 06 Nov 1994 08:49:61 GMT',
    ' Sun, 06 Nov 1994 08:49:37 GMT', 'Sun, 06 Nov 1994 08:49:37 GMT ', 'Sun, 06 Nov 1994 08:49:37 GMT\n', 'Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT',
    'Sunday, 06-Nov-1994 08:49:37 GMT', 'Sun Nov 6 08:49:37 1994', 'Sun Nov  0 08:49:37 1994']
  for (const text of table) t.equal(parseHttpDate(text, NOW), undefined, String(text))
})

t.test('leap days and leap seconds are dates', async t => {
  t.equal(parseHttpDate('Thu, 29 Feb 2024 00:00:00 GMT'), Date.UTC(2024, 1, 29))
  t.equal(parseHttpDate('Sat, 31 Dec 2016 23:59:60 GMT'), Date.UTC(2017, 0, 1))
})

t.test('a year of two digits lies at most 50 years ahead', async t => {
  const table: Array<[string, number]> = [['26', 2026], ['00', 2000], ['75', 2075], ['77', 1977], ['99', 1999]]
  for (const [short, year] of table) t.equal(parseHttpDate(`Monday, 05-Jan-${short} 00:00:00 GMT`, NOW), Date.UTC(year, 0, 5), short)
})

t.test('a year of four digits is that year, also among the first hundred', async t => {
  t.equal(parseHttpDate('Mon, 05 Jan 0094 00:00:00 GMT'), Date.parse('0094-01-05T00:00:00Z'))
  t.equal(parseHttpDate('Mon Jan  5 00:00:00 0001'), Date.parse('0001-01-05T00:00:00Z'))
  t.equal(parseHttpDate('Fri, 31 Dec 9999 23:59:59 GMT'), Date.UTC(9999, 11, 31, 23, 59, 59))
})

t.test('whatever moment is written is the moment that is read', async () => {
  const seconds = fc.date({ min: new Date('0001-01-01T00:00:00Z'), max: new Date('9999-12-31T23:59:59Z'), noInvalidDate: true }).map(date => Math.floor(date.getTime() / 1000) * 1000)
  fc.assert(fc.property(seconds, at => parseHttpDate(new Date(at).toUTCString()) === at), { numRuns: 1000 })
})

t.test('no text makes it throw', async () => {
  fc.assert(fc.property(fc.string({ unit: 'binary' }), text => ['number', 'undefined'].includes(typeof parseHttpDate(text))))
})

// Conditional requests (RFC 9110 §13, RFC 9111 §4.3)

const date = (seconds: number) => new Date(AT + seconds * 1000).toUTCString()

t.test('a list of entity tags is read up to the first invalid one', async t => {
  const table: Array<[string, string[]]> = [
    ['', []], ['"a"', ['"a"']], ['W/"a"', ['W/"a"']], ['"a", W/"b"', ['"a"', 'W/"b"']], ['"a",W/"b"', ['"a"', 'W/"b"']], [',, "a" ,\t,"b",', ['"a"', '"b"']], ['""', ['""']], ['"a,b", "c"', ['"a,b"', '"c"']],
    ['"a\\"', ['"a\\"']], ['"é"', ['"é"']], ['a', []], ["'a'", []], ['w/"a"', []], ['"a" "b"', []], ['"a", b, "c"', ['"a"']], ['"a', []], ['"a b"', []], ['"\u0000"', []], ['*', []], ['W/ "a"', []]
  ]
  for (const [field, expected] of table) t.same(parseEntityTags(field), expected, field)
})

t.test('If-None-Match is compared weakly, in lists and with *', async t => {
  const table: Array<[string, string | undefined, boolean]> = [
    ['"x"', '"x"', true], ['W/"x"', '"x"', true], ['"x"', 'W/"x"', true], ['W/"x"', 'W/"x"', true], ['"a", W/"x"', '"x"', true], ['*', '"x"', true], [' * ', undefined, true], ['"y"', '"x"', false], ['x', '"x"', false],
    ['x', 'x', false], ['', '"x"', false], ['"x"', undefined, false], ['"X"', '"x"', false], ['"W/x"', 'W/"x"', false], ['"*"', '"x"', false], ['*, "y"', '"x"', false], ['"x", *', '"x"', true]
  ]
  for (const [field, etag, expected] of table) t.equal(matchesEtag(field, etag), expected, `${field} ${etag}`)
})

t.test('a date counts only where there is no entity tag to compare, and is compared with when it was modified, else made', async t => {
  const stored = { etag: '"x"', lastModified: date(0), date: AT + 60_000 }
  const table: Array<[string | undefined, string | undefined, Partial<typeof stored> | { lastModified: string | undefined }, boolean]> = [
    [undefined, undefined, {}, false], ['"x"', undefined, {}, true], ['"x"', date(-9), {}, true], ['"y"', date(9), {}, false], ['', date(9), {}, false],
    [undefined, date(0), {}, true], [undefined, date(1), {}, true], [undefined, date(-1), {}, false], [undefined, 'yesterday', {}, false], [undefined, '', {}, false],
    [undefined, date(59), { lastModified: undefined }, false], [undefined, date(60), { lastModified: undefined }, true], [undefined, date(60), { lastModified: 'x' }, true]
  ]
  for (const [etag, since, rest, expected] of table) t.equal(isNotModified(etag, since, { ...stored, ...rest }), expected, `${etag} ${since}`)
})

t.test('a validation request has all validators of the stored response', async t => {
  t.same(validationHeaders({ etag: undefined, lastModified: undefined, date: 0 }), {})
  t.same(validationHeaders({ etag: 'W/"x"', lastModified: undefined, date: 0 }), { 'if-none-match': 'W/"x"' })
  t.same(validationHeaders({ etag: '"x"', lastModified: date(0), date: 0 }), { 'if-none-match': '"x"', 'if-modified-since': date(0) })
})

t.test('an entity tag is found wherever it is in a list', async () => {
  const tag = fc.tuple(fc.boolean(), fc.string({ unit: fc.constantFrom(...'ab,*W/\\!~') })).map(([weak, opaque]) => `${weak ? 'W/' : ''}"${opaque}"`)
  fc.assert(fc.property(fc.array(tag, { minLength: 1 }), fc.nat(), (tags, at) => {
    const field = tags.join(', ')
    return parseEntityTags(field).join(', ') === field && matchesEtag(field, tags[at % tags.length])
  }))
})

t.test('no If-None-Match field throws or takes long', async t => {
  fc.assert(fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom(...'W/", a*') })), field => { matchesEtag(field, '"x"') }))
  const spent = await cpuTimeOf(() => {
    for (const field of [','.repeat(65_536), '"a",'.repeat(16_384), '"'.repeat(65_536), 'W/'.repeat(32_768), `"${'a'.repeat(65_536)}`]) matchesEtag(field, '"x"')
  })
  t.ok(spent < 2000, `${spent} ms of CPU`)
})

// Ranges (RFC 9110 §14)

t.test('one range of bytes is a part of the body, and no more than there is', async t => {
  const table: Array<[string, number, ByteRange | 'unsatisfiable']> = [
    ['bytes=0-0', 10, { first: 0, last: 0 }], ['bytes=0-9', 10, { first: 0, last: 9 }], ['bytes=0-99', 10, { first: 0, last: 9 }], ['bytes=5-', 10, { first: 5, last: 9 }], ['bytes=9-', 10, { first: 9, last: 9 }],
    ['bytes=-1', 10, { first: 9, last: 9 }], ['bytes=-10', 10, { first: 0, last: 9 }], ['bytes=-99', 10, { first: 0, last: 9 }], ['BYTES= 2-3 ', 10, { first: 2, last: 3 }], ['bytes=002-003', 10, { first: 2, last: 3 }],
    [`bytes=0-${'9'.repeat(400)}`, 10, { first: 0, last: 9 }], [`bytes=-${'9'.repeat(400)}`, 10, { first: 0, last: 9 }],
    ['bytes=10-', 10, 'unsatisfiable'], ['bytes=10-20', 10, 'unsatisfiable'], ['bytes=-0', 10, 'unsatisfiable'], ['bytes=0-', 0, 'unsatisfiable'], ['bytes=-1', 0, 'unsatisfiable'], [`bytes=${'9'.repeat(400)}-`, 10, 'unsatisfiable']
  ]
  for (const [field, length, expected] of table) t.same(parseRange(field, length), expected, field.slice(0, 40))
})

t.test('other units, several ranges and invalid ranges are ignored', async t => {
  const table = ['', 'bytes', 'bytes=', 'bytes=-', 'bytes=a-b', 'bytes=1-0', 'bytes=0-1,3-4', 'bytes=0-1,', 'items=0-1', 'bytes=0', 'bytes=--1', 'bytes=0--1', 'bytes=+0-1', 'bytes=0x0-1', 'bytes=0-1e1', 'bytes=0.0-1',
    'bytes =0-1', 'bytes: 0-1', 'bytes=0-1\n', 'xbytes=0-1', 'bytes=٠-١']
  for (const field of table) t.equal(parseRange(field, 10), undefined, field)
})

t.test('a range lies within the body, whatever is asked for', async () => {
  const number = fc.oneof(fc.constant(''), fc.nat(20).map(String), fc.bigInt({ min: 0n }).map(String))
  fc.assert(fc.property(number, number, fc.nat(20), (from, to, length) => {
    const range = parseRange(`bytes=${from}-${to}`, length)
    return range === undefined || range === 'unsatisfiable' || (range.first >= 0 && range.first <= range.last && range.last < length)
  }), { numRuns: 1000 })
})

t.test('a part is sent only if If-Range names the stored response, by strong comparison', async t => {
  const stored = { etag: '"x"', lastModified: date(-1), date: AT }
  const table: Array<[string | undefined, Partial<typeof stored> | { etag: undefined } | { lastModified: undefined }, boolean]> = [
    [undefined, {}, true], ['"x"', {}, true], ['"y"', {}, false], ['W/"x"', {}, false], ['W/"x"', { etag: 'W/"x"' }, false], ['"x"', { etag: 'W/"x"' }, false], ['"x"', { etag: undefined }, false],
    ['x', {}, false], ['', {}, false], ['*', {}, false], ['"x", "y"', {}, false],
    [date(-1), {}, true], [date(0), {}, false], [date(-2), {}, false], [date(0), { lastModified: date(0) }, false], [date(-1), { lastModified: undefined }, false], ['yesterday', { lastModified: 'yesterday' }, false]
  ]
  for (const [field, rest, expected] of table) t.equal(isRangeCurrent(field, { ...stored, ...rest }), expected, `${field} ${JSON.stringify(rest)}`)
})

// Cache-Status (RFC 9211)

const hit: CacheStatus = { outcome: 'HIT', fwd: undefined, fwdStatus: undefined, ttl: 5, stored: false, collapsed: false }
/** The one member of the field: its name, whether that is a token, and its parameters. */
function read (field: string) {
  const [member, ...more] = parseList(field)
  t.same(more, [])
  const [name, parameters] = member as Item
  return { name: String(name), isToken: name instanceof Token, parameters: Object.fromEntries([...parameters].map(([key, value]) => [key, value instanceof Token ? `token ${value.toString()}` : value])) }
}

t.test('the outcome of a request is a member of Cache-Status, by RFC 9211', async t => {
  const describe = createCacheStatus('suite')
  const table: Array<[Partial<CacheStatus>, string | undefined, Record<string, unknown>]> = [
    [{}, undefined, { hit: true, ttl: 5 }], [{ ttl: undefined }, undefined, { hit: true }], [{ ttl: -7 }, undefined, { hit: true, ttl: -7 }], [{ ttl: 0 }, undefined, { hit: true, ttl: 0 }],
    [{ ttl: undefined, fwd: 'uri-miss', stored: true }, undefined, { fwd: 'token uri-miss', stored: true }], [{ ttl: undefined, fwd: 'uri-miss', collapsed: true }, undefined, { fwd: 'token uri-miss', collapsed: true }],
    [{ fwd: 'stale', fwdStatus: 304 }, undefined, { fwd: 'token stale', 'fwd-status': 304, ttl: 5 }], [{ ttl: undefined, fwd: 'bypass' }, 'session', { fwd: 'token bypass', detail: 'session' }],
    [{}, 'a "b" \\ c', { hit: true, ttl: 5, detail: 'a "b" \\ c' }], [{}, 'é\n\0🫖', { hit: true, ttl: 5, detail: '?????' }], [{}, 'x'.repeat(500), { hit: true, ttl: 5, detail: 'x'.repeat(200) }]
  ]
  for (const [change, detail, expected] of table) t.strictSame(read(describe({ ...hit, ...change }, detail)).parameters, expected, JSON.stringify(change))
})

t.test('the name is a token where it can be one, else a text', async t => {
  const table: Array<[string, boolean]> = [['suite', true], ['a.example:80/x', true], ['*', true], ["a!#$%&'*+-.^_`|~", true], ['1a', false], ['a b', false], ['a"b\\', false], ['(a)', false], ['a,b', false], ['a;hit', false], ['-', false]]
  for (const [name, isToken] of table) t.match(read(createCacheStatus(name)(hit)), { name, isToken, parameters: { hit: true } }, name)
})

t.test('each Cache-Status value parses as one member that is a hit or was forwarded', async () => {
  const status = fc.record({
    outcome: fc.constantFrom('HIT' as const, 'MISS' as const),
    fwd: fc.constantFrom('bypass' as const, 'method' as const, 'uri-miss' as const, 'vary-miss' as const, 'miss' as const, 'request' as const, 'stale' as const, undefined),
    fwdStatus: fc.option(fc.integer({ min: 200, max: 599 }), { nil: undefined }),
    ttl: fc.option(fc.integer(), { nil: undefined }),
    stored: fc.boolean(),
    collapsed: fc.boolean()
  })
  const name = fc.string({ unit: fc.constantFrom(...'a1*"\\ ,;=()/:'), minLength: 1 })
  fc.assert(fc.property(name, status, fc.option(fc.string({ unit: 'binary' }), { nil: undefined }), (cache, given, detail) => {
    const { name: told, parameters } = read(createCacheStatus(cache)(given, detail))
    return told === cache && ('hit' in parameters) !== ('fwd' in parameters) && parameters['ttl'] === given.ttl && ('stored' in parameters) === given.stored
  }))
})
