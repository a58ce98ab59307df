import fc from 'fast-check'
import t from 'tap'
import { parseCacheControl } from '../../plugins/cache/cache-control.js'
import { explicitLifetime, heuristicLifetime, initialAge, isHeuristicallyCacheable, type FreshnessInput } from '../../plugins/cache/freshness.js'

const NOW = Date.UTC(2026, 0, 1)
const date = (seconds: number) => new Date(NOW + seconds * 1000).toUTCString()
const input = (cacheControl: string, rest: Partial<FreshnessInput> = {}): FreshnessInput => ({
  directives: parseCacheControl(cacheControl) ?? new Map(),
  expires: undefined,
  date: undefined,
  age: undefined,
  lastModified: undefined,
  status: 200,
  requestedAt: NOW,
  respondedAt: NOW,
  ...rest
})

t.test('a lifetime is of s-maxage, else of max-age, else of Expires', async t => {
  const table: Array<[string, Partial<FreshnessInput>, number | undefined]> = [
    ['', {}, undefined], ['public', {}, undefined],
    ['max-age=5', {}, 5000], ['s-maxage=7', {}, 7000], ['max-age=5, s-maxage=7', {}, 7000], ['max-age=5, s-maxage=0', {}, 0], ['max-age=5', { expires: date(60) }, 5000], ['max-age=0', { expires: date(60) }, 0],
    ['', { expires: date(60) }, 60_000], ['', { expires: date(60), date: date(-10) }, 70_000], ['', { expires: date(60), date: date(100) }, 0], ['', { expires: date(-60) }, 0],
    ['', { expires: date(60), date: 'yesterday' }, 60_000]
  ]
  for (const [field, rest, expected] of table) t.equal(explicitLifetime(input(field, rest)), expected, `${field} ${JSON.stringify(rest)}`)
})

t.test('a lifetime that cannot be read is none, and nothing else takes its place', async t => {
  for (const field of ['max-age', 'max-age=-1', 'max-age=1.5', 'max-age=x', 's-maxage=x, max-age=5', 's-maxage, max-age=5']) t.equal(explicitLifetime(input(field, { expires: date(60) })), 0, field)
  for (const expires of ['0', '-1', '', 'never', `${date(60)}, ${date(60)}`]) t.equal(explicitLifetime(input('', { expires })), 0, expires)
  t.equal(explicitLifetime(input('s-maxage=7, max-age=x')), 7000)
})

t.test('what is larger than can be counted is a long time, and finite', async t => {
  t.equal(explicitLifetime(input(`max-age=${'9'.repeat(400)}`)), 2 ** 31 * 1000)
  t.equal(initialAge(input('', { age: '9'.repeat(400) })), 2 ** 31 * 1000)
})

t.test('without being told so, only answers with certain status codes may be stored', async t => {
  const cacheable = Array.from({ length: 500 }, (_, i) => i + 100).filter(isHeuristicallyCacheable)
  t.same(cacheable, [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
})

t.test('a guess is a part of the time for which an answer has not changed', async t => {
  const table: Array<[string, Partial<FreshnessInput>, number | undefined]> = [
    ['', {}, undefined], ['', { lastModified: 'x' }, undefined],
    ['', { lastModified: date(-1000) }, 100_000], ['', { lastModified: date(-1000), date: date(-500) }, 50_000], ['', { lastModified: date(10) }, 0],
    ['', { lastModified: date(-1000), status: 500 }, undefined], ['', { lastModified: date(-1000), status: 302 }, undefined], ['public', { lastModified: date(-1000), status: 302 }, 100_000]
  ]
  for (const [field, rest, expected] of table) t.equal(heuristicLifetime(input(field, rest), 0.1), expected, `${field} ${JSON.stringify(rest)}`)
})

t.test('how old an answer was is the greater of what Date and what Age say', async t => {
  const table: Array<[Partial<FreshnessInput>, number]> = [
    [{}, 0], [{ date: date(0) }, 0], [{ date: date(-5) }, 5000], [{ date: date(5) }, 0], [{ date: 'x' }, 0], [{ age: '7' }, 7000], [{ age: '7', date: date(-5) }, 7000], [{ age: '3', date: date(-5) }, 5000],
    [{ age: '7', requestedAt: NOW - 2000 }, 9000], [{ requestedAt: NOW - 2000 }, 0], [{ age: '0' }, 0], [{ date: date(0), respondedAt: NOW + 999, requestedAt: NOW + 999 }, 0],
    [{ age: '7, 9' }, 7000], [{ age: '7,' }, 7000], [{ age: ' 7 ' }, 7000]
  ]
  for (const [rest, expected] of table) t.equal(initialAge(input('', rest)), expected, JSON.stringify(rest))
  for (const age of ['', 'x', '-1', '+1', '1.5', '1e3', '7 9', '7;9', 'x, 7', ', 7', '"7"']) t.equal(initialAge(input('', { age })), 0, age)
})

t.test('an age is finite and never below zero', async () => {
  const texts = fc.option(fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom(...'0123456789'), maxLength: 400 }), fc.integer().map(date)), { nil: undefined })
  fc.assert(fc.property(texts, texts, fc.nat(), (text, age, took) => {
    const result = initialAge(input('', { date: text, age, requestedAt: NOW - took }))
    return Number.isFinite(result) && result >= 0
  }))
})
