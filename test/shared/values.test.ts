import Fastify from 'fastify'
import t from 'tap'
import { parseDuration } from '../../plugins/shared/plugin/duration.js'
import { pluginError } from '../../plugins/shared/plugin/errors.js'
import { safeId } from '../../plugins/shared/plugin/keys.js'
import { boolean, duration, integer, oneOf, string } from '../../plugins/shared/plugin/option-kinds.js'
import { resolveOptions } from '../../plugins/shared/plugin/option-table.js'

t.test('a duration is milliseconds or a text with a unit, and nothing else', async t => {
  const table: Array<[unknown, number | undefined]> = [
    [0, 0], [1500, 1500], [0.4, 0], ['30s', 30_000], ['1 minute', 60_000], ['5 minutes', 300_000], ['1h', 3_600_000],
    [' 2 days ', 172_800_000], ['250', 250],
    ['', undefined], ['  ', undefined], ['soon', undefined], ['1 lightyear', undefined], ['-5s', undefined], [-1, undefined],
    [NaN, undefined], [Infinity, undefined], [null, undefined], [{}, undefined], [[5], undefined], [true, undefined]
  ]
  t.same(table.map(([given]) => [given, parseDuration(given)]), table)
})

t.test('safe ids stay readable, all others become a digest, and no two share a result', async t => {
  const plain = ['127.0.0.1', '2001:db8::', 'product:1', 'user-7', 'a@b.c', '_', 'x'.repeat(64)]
  t.same(plain.map(safeId), plain)
  const hostile = ['', 'a~b', '{a}', '*', 'a b', 'a\n', '\0', '#', 'é', '\ud800', 'x'.repeat(65), 'a/b', '[a]']
  t.same(hostile.filter(id => !/^#[\w-]{43}$/.test(safeId(id))), [])
  t.equal(new Set([...plain, ...hostile].map(safeId)).size, plain.length + hostile.length)
})

t.test('an option error names the option, the given value and the allowed ones', async t => {
  const table = {
    ttl: duration(1), max: integer(1, { min: 1, max: 9 }), on: boolean(true), name: string('x'), mode: oneOf('a', ['a', 'b']), huge: duration(1), absent: integer(7), secret: { ...string(), secret: 'too short' }
  }
  const read = (options: object) => resolveOptions('cache', table, options)
  const code = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'
  t.throws(() => read({ ttl: 'soon' }), { code, message: 'cache: option "ttl" must be milliseconds or a string such as \'30s\' from 0 ms, but was the string "soon"' })
  t.throws(() => read({ max: 1.5 }), { code, message: 'cache: option "max" must be a whole number from 1 to 9, but was 1.5' })
  t.throws(() => read({ on: 'yes' }), { code, message: /"on" must be true or false, but was the string "yes"/ })
  t.throws(() => read({ name: '' }), { code, message: /"name" must be .*, but was the string ""/ })
  t.throws(() => read({ mode: 'c' }), { code, message: /must be one of 'a', 'b', but was/ })
  t.throws(() => read({ extra: 1 }), { code, message: /unknown option "extra"; allowed: one of ttl, max, / })
  t.throws(() => read({ maxx: 1 }), { code, message: /unknown option "maxx"; did you mean "max"\? allowed: one of ttl, / })
  t.throws(() => read({ huge: 'x'.repeat(500) }), { message: /^.{0,200}$/ })
  t.throws(() => read({ secret: 5 }), { message: /"secret" must be .*, but was too short/ })
  t.throws(() => read(null as never), { code, message: /argument "options" must be an object, but was null/ })
  t.match(read({ ttl: null, max: 3, prefix: '/shop' }), { ttl: 1, max: 3, absent: 7, secret: undefined })
})

t.test('an error with status 503 has Retry-After: 1, which an app may change; other errors have none', async t => {
  const UnavailableError = pluginError('cache', 'TEST_UNAVAILABLE', 'not now', 503)
  const ConflictError = pluginError('cache', 'TEST_CONFLICT', 'not so', 409)
  const app = Fastify()
  t.teardown(() => app.close())
  app.get('/unavailable', async () => { throw new UnavailableError() })
  app.get('/later', async () => { throw Object.assign(new UnavailableError(), { headers: { 'retry-after': '60' } }) })
  app.get('/conflict', async () => { throw new ConflictError() })
  const answers = await Promise.all(['/unavailable', '/later', '/conflict', '/unavailable'].map(url => app.inject(url)))
  t.same(answers.map(({ statusCode, headers }) => [statusCode, headers['retry-after']]), [[503, '1'], [503, '60'], [409, undefined], [503, '1']])
  t.match(answers[0]?.json(), { code: 'FST_REDIS_SUITE_CACHE_TEST_UNAVAILABLE', message: 'cache: not now' })
  t.notOk(Object.keys(new UnavailableError()).includes('headers'), 'the headers are in no log')
})
