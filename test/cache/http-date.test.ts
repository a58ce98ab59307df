import fc from 'fast-check'
import t from 'tap'
import { parseHttpDate } from '../../plugins/cache/http-date.js'

const AT = Date.UTC(1994, 10, 6, 8, 49, 37)
const NOW = Date.UTC(2026, 0, 1)

t.test('the three forms of a date are the same moment, in any case', async t => {
  for (const text of ['Sun, 06 Nov 1994 08:49:37 GMT', 'Sunday, 06-Nov-94 08:49:37 GMT', 'Sun Nov  6 08:49:37 1994', 'SUN, 06 NOV 1994 08:49:37 gmt', 'Sun Nov 06 08:49:37 1994']) {
    t.equal(parseHttpDate(text, NOW), AT, text)
  }
})

t.test('what is no date is none, however much it looks like one', async t => {
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
