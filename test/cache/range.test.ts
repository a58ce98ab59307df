import fc from 'fast-check'
import t from 'tap'
import { isRangeCurrent, parseRange, type ByteRange } from '../../plugins/cache/range.js'

const AT = Date.UTC(1994, 10, 6, 8, 49, 37)
const date = (seconds: number) => new Date(AT + seconds * 1000).toUTCString()

t.test('one range of bytes is a part of the body, and no more than there is', async t => {
  const table: Array<[string, number, ByteRange | 'unsatisfiable']> = [
    ['bytes=0-0', 10, { first: 0, last: 0 }], ['bytes=0-9', 10, { first: 0, last: 9 }], ['bytes=0-99', 10, { first: 0, last: 9 }], ['bytes=5-', 10, { first: 5, last: 9 }], ['bytes=9-', 10, { first: 9, last: 9 }],
    ['bytes=-1', 10, { first: 9, last: 9 }], ['bytes=-10', 10, { first: 0, last: 9 }], ['bytes=-99', 10, { first: 0, last: 9 }], ['BYTES= 2-3 ', 10, { first: 2, last: 3 }], ['bytes=002-003', 10, { first: 2, last: 3 }],
    [`bytes=0-${'9'.repeat(400)}`, 10, { first: 0, last: 9 }], [`bytes=-${'9'.repeat(400)}`, 10, { first: 0, last: 9 }],
    ['bytes=10-', 10, 'unsatisfiable'], ['bytes=10-20', 10, 'unsatisfiable'], ['bytes=-0', 10, 'unsatisfiable'], ['bytes=0-', 0, 'unsatisfiable'], ['bytes=-1', 0, 'unsatisfiable'], [`bytes=${'9'.repeat(400)}-`, 10, 'unsatisfiable']
  ]
  for (const [field, length, expected] of table) t.same(parseRange(field, length), expected, field.slice(0, 40))
})

t.test('another unit, several ranges and what cannot be read are ignored', async t => {
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

t.test('a part is sent only of what If-Range names, by strong comparison', async t => {
  const stored = { etag: '"x"', lastModified: date(-1), date: AT }
  const table: Array<[string | undefined, Partial<typeof stored> | { etag: undefined } | { lastModified: undefined }, boolean]> = [
    [undefined, {}, true], ['"x"', {}, true], ['"y"', {}, false], ['W/"x"', {}, false], ['W/"x"', { etag: 'W/"x"' }, false], ['"x"', { etag: 'W/"x"' }, false], ['"x"', { etag: undefined }, false],
    ['x', {}, false], ['', {}, false], ['*', {}, false], ['"x", "y"', {}, false],
    [date(-1), {}, true], [date(0), {}, false], [date(-2), {}, false], [date(0), { lastModified: date(0) }, false], [date(-1), { lastModified: undefined }, false], ['yesterday', { lastModified: 'yesterday' }, false]
  ]
  for (const [field, rest, expected] of table) t.equal(isRangeCurrent(field, { ...stored, ...rest }), expected, `${field} ${JSON.stringify(rest)}`)
})
