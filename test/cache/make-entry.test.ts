import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import type { ResponseMeta, StoredResponse } from '../../plugins/cache/entry.js'
import { freshen, judge } from '../../plugins/cache/make-entry.js'
import type { RouteCacheOptions } from '../../plugins/cache/options.js'
import { createState, type RequestCache } from '../../plugins/cache/request-state.js'
import { resolveCacheOptions } from '../../plugins/cache/resolve-options.js'

const NOW = Date.UTC(2026, 0, 1)
const MINUTE = 60_000
const date = (seconds: number) => new Date(NOW + seconds * 1000).toUTCString()
type Headers = Record<string, string | string[]>

interface Given {
  route?: RouteCacheOptions
  request?: Record<string, unknown>
  headers?: Headers
  status?: number
  state?: Partial<RequestCache>
}
function prepare ({ route = { ttl: 'headers' }, request: given = {}, headers = {}, status = 200, state = {} }: Given) {
  const request = { method: 'GET', headers: {}, ...given } as unknown as FastifyRequest
  const reply = { statusCode: status, getHeaders: () => ({ ...headers }) } as unknown as FastifyReply
  return [request, reply, { ...createState(request, resolveCacheOptions({}).route(route, 'GET /')), requestedAt: NOW, ...state }] as const
}
const of = (given: Given) => judge(...prepare(given), NOW)
const why = (given: Given) => {
  const judged = of(given)
  return 'why' in judged ? judged.why : undefined
}
const made = (given: Given) => {
  const judged = of(given)
  if ('why' in judged) throw new Error(judged.why)
  return judged
}
const says = (cacheControl: string, rest: Headers = {}): Given => ({ headers: { 'cache-control': cacheControl, ...rest } })

t.test('an answer that says how long it is fresh is stored for as long', async t => {
  const { meta, life, varies } = made(says('max-age=9, stale-while-revalidate=3, stale-if-error=5', { 'x-a': '1', age: '2', connection: 'close' }))
  t.strictSame(meta, {
    status: 200,
    headers: { 'cache-control': 'max-age=9, stale-while-revalidate=3, stale-if-error=5', 'x-a': '1', date: date(0) },
    vary: {},
    age: 2000,
    fresh: 7000,
    strict: false,
    validateAlways: false,
    staleWhileRevalidate: 3000,
    staleIfError: 5000
  })
  t.equal(life, 12_000)
  t.same(varies, [])
})

t.test('an answer that may not be stored, or not for a moment, is not', async t => {
  const table: Array<[Given, string]> = [
    [says('no-store'), 'no-store'], [says('private'), 'private'], [says('max-age='), 'malformed cache-control'], [says('max-age=9', { vary: '*' }), 'vary'], [says('max-age=9', { 'set-cookie': 'a=1' }), 'set-cookie'],
    [says('max-age=0'), 'not fresh'], [says('max-age=9', { age: '9' }), 'not fresh'], [says('max-age=x'), 'not fresh'], [{}, 'not fresh'], [{ status: 302 }, 'no freshness'], [{ ...says('max-age=9'), request: { method: 'HEAD' } }, 'method'],
    [{ ...says('max-age=9'), request: { session: { user: 1 } } }, 'session'], [{ ...says('max-age=9'), state: { hasAuthorization: true } }, 'authorization'], [{ route: { ttl: 0 } }, 'ttl 0'], [{ route: { ttl: 9 }, status: 500 }, 'status'],
    [{ route: { ttl: 9 }, ...says('no-store') }, 'no-store'], [says('', { expires: '0' }), 'not fresh'], [{ route: { ttl: () => 'soon' } }, 'ttl 0']
  ]
  for (const [given, expected] of table) t.equal(why(given), expected, JSON.stringify(given))
})

t.test('a route\'s own ttl stands above what the answer says of freshness', async t => {
  const { meta } = made({ route: { ttl: 5000 }, ...says('max-age=99, stale-if-error=1', { age: '50', expires: '0' }) })
  t.match(meta, { fresh: 5000, age: 0, staleIfError: 1000, staleWhileRevalidate: 0 })
  t.match(made({ route: { ttl: 5000, staleWhileRevalidate: 7000 } }), { meta: { fresh: 5000, staleWhileRevalidate: 7000 }, life: 12_000 })
})

t.test('a targeted field stands above Cache-Control and Expires', async t => {
  t.equal(made(says('no-store', { 'cdn-cache-control': 'max-age=7' })).meta.fresh, 7000)
  t.equal(why(says('max-age=7', { 'cdn-cache-control': 'no-store' })), 'no-store')
  t.equal(why(says('max-age=7', { 'cdn-cache-control': 'public', expires: date(9) })), 'not fresh')
  t.equal(made({ route: { ttl: 'headers', targeted: ['My-Cache-Control'] }, ...says('max-age=7', { 'cdn-cache-control': 'no-store', 'my-cache-control': 'max-age=8' }) }).meta.fresh, 8000)
})

t.test('what can be validated is kept for a while after it is stale', async t => {
  const table: Array<[Given, number, number]> = [
    [says('max-age=9', { etag: '"x"' }), 9000, 9000 + MINUTE], [says('max-age=0', { etag: '"x"' }), 0, MINUTE], [says('no-cache, max-age=9', { 'last-modified': date(-9) }), 0, MINUTE],
    [says('max-age=3600', { etag: '"x"' }), 3_600_000, 7_200_000], [says('max-age=864000', { etag: '"x"' }), 864_000_000, 864_000_000 + 24 * 60 * MINUTE], [says('', { etag: '"x"' }), 0, MINUTE]
  ]
  for (const [given, fresh, life] of table) t.match(made(given), { meta: { fresh }, life }, JSON.stringify(given))
  t.equal(made(says('no-cache', { etag: '"x"' })).meta.validateAlways, true)
})

t.test('how it was selected, and how strictly it goes stale, is kept with it', async t => {
  const { meta, varies } = made({ ...says('max-age=9', { vary: 'X-A, Accept, X-B' }), route: { ttl: 'headers', vary: ['accept'] }, request: { headers: { 'x-a': ' 1,  2', accept: 'z' } } })
  t.same(varies, ['x-a', 'x-b'])
  t.equal(meta.vary['x-a'], '1,2')
  t.same(Object.keys(meta.vary), ['x-a', 'x-b'])
  for (const [field, strict] of [['max-age=9', false], ['max-age=9, must-revalidate', true], ['max-age=9, proxy-revalidate', true], ['s-maxage=9', true]] as const) t.equal(made(says(field)).meta.strict, strict, field)
})

t.test('headers that are another one\'s are not kept with it', async t => {
  const { meta } = made({ ...says('max-age=9, no-cache="X-B"', { 'x-a': '1', 'x-b': '2', 'x-c': '3', 'content-length': '5' }), state: { before: { 'x-a': '1' } } })
  t.same(Object.keys(meta.headers).sort(), ['cache-control', 'date', 'x-c'])
})

t.test('without a word on freshness a part of its age is guessed, where that is asked for; a ttl is shortened at random', async t => {
  t.equal(made({ route: { ttl: 'headers', heuristic: 0.1 }, headers: { 'last-modified': date(-1000) } }).meta.fresh, 100_000)
  for (let i = 0; i < 100; i++) {
    const { fresh } = made({ route: { ttl: 1000, jitter: 0.2 } }).meta
    t.ok(fresh > 799 && fresh <= 1000)
  }
})

const meta: ResponseMeta = { status: 200, headers: { etag: '"x"', 'cache-control': 'max-age=9', date: date(-60), 'x-a': 'old' }, vary: { accept: 'a' }, age: 0, fresh: 9000, staleWhileRevalidate: 0, staleIfError: 0, strict: false, validateAlways: false }
const stored: StoredResponse = { kind: 'response', label: '', meta, body: Buffer.from('x'), storedAt: NOW - MINUTE, life: 2 * MINUTE, tags: {} }
const confirmed = (given: Given) => freshen(...prepare({ status: 304, ...given }), stored, NOW)

t.test('what is confirmed is fresh again, with the headers that confirm it', async t => {
  t.match(confirmed({ request: { headers: { accept: 'a' } } }), { meta: { status: 200, fresh: 9000, age: 0, vary: { accept: 'a' }, headers: { etag: '"x"', 'x-a': 'old', 'cache-control': 'max-age=9' } }, varies: ['accept'] })
  t.match(confirmed({ headers: { 'cache-control': 'max-age=20', 'x-a': 'new', age: '5', date: date(-1) } }), { meta: { fresh: 15_000, age: 5000, headers: { 'x-a': 'new', 'cache-control': 'max-age=20' } } })
})

t.test('a confirmation without content does not change of which type the stored body is', async t => {
  const html: StoredResponse = { ...stored, meta: { ...meta, headers: { ...meta.headers, 'content-type': 'text/html' } } }
  for (const [given, expected] of [['text/plain; charset=utf-8', 'text/html'], ['text/html; charset=utf-8', 'text/html; charset=utf-8']] as const) {
    t.match(freshen(...prepare({ status: 304, headers: { 'content-type': given } }), html, NOW), { meta: { headers: { 'content-type': expected } } })
  }
})

t.test('what is confirmed but may not be stored any longer is not', async t => {
  for (const [field, expected] of [['no-store', 'no-store'], ['private', 'private'], ['max-age=', 'no-store']] as const) t.match(confirmed({ headers: { 'cache-control': field } }), { why: expected }, field)
})

t.test('what confirms an answer for one client leaves nothing of this client in it', async t => {
  const headers = { 'set-cookie': ['sid=secret'], 'x-private': '1', 'cache-control': 'max-age=9, private="x-private"', 'x-before': '1' }
  const judged = confirmed({ headers, state: { before: { 'x-before': '1' } } })
  t.ok('meta' in judged)
  if ('meta' in judged) t.same(Object.keys(judged.meta.headers).sort(), ['cache-control', 'date', 'etag', 'x-a'])
  const kept = confirmed({ headers, route: { ttl: 'headers', storeSetCookie: true } })
  if ('meta' in kept) t.same(kept.meta.headers['set-cookie'], ['sid=secret'], 'unless the route says that it may be stored')
})
