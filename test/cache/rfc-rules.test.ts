import fc from 'fast-check'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { parseCacheControl } from '../../plugins/cache/rfc/cache-control.js'
import type { ResponseMeta, StoredResponse } from '../../plugins/cache/http/stored-response.js'
import { explicitLifetime, type FreshnessInput, heuristicLifetime, initialAge, isHeuristicallyCacheable } from '../../plugins/cache/rfc/freshness.js'
import { freshen, evaluateResponse } from '../../plugins/cache/http/evaluate-response.js'
import type { RouteCacheOptions } from '../../plugins/cache/http/route-options.js'
import { createState, type Filling, type RequestCache } from '../../plugins/cache/http/request-state.js'
import { resolveCacheOptions } from '../../plugins/cache/options.js'
import { isUsableOnError, type Reuse, reuseOf, type Usability } from '../../plugins/cache/rfc/reuse.js'
import { effectiveDirectives, excludedFields, isStorableWithoutFreshness, type StorableInput, whyNotStorable } from '../../plugins/cache/rfc/storable.js'

// Freshness (RFC 9111 §4.2)

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

t.test('an invalid lifetime counts as 0, and no other field replaces it', async t => {
  for (const field of ['max-age', 'max-age=-1', 'max-age=1.5', 'max-age=x', 's-maxage=x, max-age=5', 's-maxage, max-age=5']) t.equal(explicitLifetime(input(field, { expires: date(60) })), 0, field)
  for (const expires of ['0', '-1', '', 'never', `${date(60)}, ${date(60)}`]) t.equal(explicitLifetime(input('', { expires })), 0, expires)
  t.equal(explicitLifetime(input('s-maxage=7, max-age=x')), 7000)
})

t.test('a number that is too large counts as a long, finite time', async t => {
  t.equal(explicitLifetime(input(`max-age=${'9'.repeat(400)}`)), 2 ** 31 * 1000)
  t.equal(initialAge(input('', { age: '9'.repeat(400) })), 2 ** 31 * 1000)
})

t.test('without explicit freshness only responses with certain status codes may be stored', async t => {
  const cacheable = Array.from({ length: 500 }, (_, i) => i + 100).filter(isHeuristicallyCacheable)
  t.same(cacheable, [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
})

t.test('heuristic freshness is a fraction of the time since the last modification', async t => {
  const table: Array<[string, Partial<FreshnessInput>, number | undefined]> = [
    ['', {}, undefined], ['', { lastModified: 'x' }, undefined],
    ['', { lastModified: date(-1000) }, 100_000], ['', { lastModified: date(-1000), date: date(-500) }, 50_000], ['', { lastModified: date(10) }, 0],
    ['', { lastModified: date(-1000), status: 500 }, undefined], ['', { lastModified: date(-1000), status: 302 }, undefined], ['public', { lastModified: date(-1000), status: 302 }, 100_000]
  ]
  for (const [field, rest, expected] of table) t.equal(heuristicLifetime(input(field, rest), 0.1), expected, `${field} ${JSON.stringify(rest)}`)
})

t.test('the initial age is the greater of those by Date and Age', async t => {
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

// Reuse (RFC 9111 §4)

/** The usability of a stored response, with times relative to now. */
interface Relative { age: number, freshFor: number, staleWhileRevalidate: number, staleIfError: number, mustRevalidate: boolean, noCache: boolean }
const fresh: Relative = { age: 10_000, freshFor: 5000, staleWhileRevalidate: 0, staleIfError: 0, mustRevalidate: false, noCache: false }
const stale: Relative = { ...fresh, age: 20_000, freshFor: -5000 }
const absolute = ({ age, freshFor, staleWhileRevalidate, staleIfError, mustRevalidate, noCache }: Relative): Usability => {
  const staleAt = NOW + freshFor
  return { generatedAt: NOW - age, staleAt, revalidateUntil: staleAt + staleWhileRevalidate, serveOnErrorUntil: staleAt + staleIfError, mustRevalidate, noCache }
}
const reuse = (stored: Relative, field?: string) => reuseOf(absolute(stored), NOW, field === undefined ? undefined : parseCacheControl(field))
const usableOnError = (stored: Relative) => isUsableOnError(absolute(stored), NOW)

t.test('a fresh response is used, a stale one is validated, and within stale-while-revalidate it is refreshed', async t => {
  const table: Array<[Relative, Reuse]> = [
    [fresh, 'use'], [{ ...fresh, freshFor: 1 }, 'use'], [{ ...fresh, freshFor: 0 }, 'validate'], [stale, 'validate'], [{ ...fresh, mustRevalidate: true }, 'use'], [{ ...fresh, noCache: true }, 'validate'],
    [{ ...stale, staleWhileRevalidate: 5001 }, 'refresh'], [{ ...stale, staleWhileRevalidate: 5000 }, 'validate'], [{ ...fresh, freshFor: 0, staleWhileRevalidate: 1 }, 'refresh'],
    [{ ...stale, staleWhileRevalidate: 9000, mustRevalidate: true }, 'validate'], [{ ...stale, staleWhileRevalidate: 9000, noCache: true }, 'validate'], [{ ...stale, staleIfError: 9000 }, 'validate'],
    [{ ...fresh, staleWhileRevalidate: 9000 }, 'use']
  ]
  for (const [stored, expected] of table) t.equal(reuse(stored), expected, JSON.stringify(stored))
})

t.test('a request may demand a fresher response, or accept a stale one', async t => {
  const table: Array<[Relative, string, Reuse]> = [
    [fresh, '', 'use'], [fresh, 'no-cache', 'validate'], [fresh, 'max-age=10', 'use'], [fresh, 'max-age=9', 'validate'], [fresh, 'max-age=0', 'validate'], [fresh, 'min-fresh=5', 'use'], [fresh, 'min-fresh=6', 'validate'],
    [stale, 'max-stale', 'use'], [stale, 'max-stale=6', 'use'], [stale, 'max-stale=5', 'validate'], [stale, 'max-stale=0', 'validate'], [stale, 'max-stale, no-cache', 'validate'],
    [{ ...stale, mustRevalidate: true }, 'max-stale', 'validate'], [{ ...stale, noCache: true }, 'max-stale', 'validate'], [{ ...stale, staleWhileRevalidate: 9000 }, 'max-stale', 'refresh'],
    [stale, 'max-age=20, max-stale', 'use'], [stale, 'max-age=19, max-stale', 'validate'], [stale, 'min-fresh=1, max-stale', 'validate']
  ]
  for (const [stored, field, expected] of table) t.equal(reuse(stored, field), expected, `${stored.freshFor} ${field}`)
})

t.test('an invalid directive of a request demands a new response', async t => {
  for (const field of ['max-age', 'max-age=x', 'max-age=-1', 'min-fresh', 'min-fresh=x']) t.equal(reuse(fresh, field), 'validate', field)
  for (const field of ['max-stale=x', 'max-stale=-1', 'max-stale=""']) t.equal(reuse(stale, field), 'validate', field)
})

t.test('a fresh response, or a stale one within stale-if-error, may be served in place of an error', async t => {
  const table: Array<[Relative, boolean]> = [
    [fresh, true], [{ ...fresh, noCache: true }, false], [{ ...fresh, mustRevalidate: true }, true], [stale, false], [{ ...stale, staleIfError: 5001 }, true], [{ ...stale, staleIfError: 5000 }, false],
    [{ ...stale, staleIfError: 9000, mustRevalidate: true }, false], [{ ...stale, staleIfError: 9000, noCache: true }, false], [{ ...stale, staleWhileRevalidate: 9000 }, false]
  ]
  for (const [stored, expected] of table) t.equal(usableOnError(stored), expected, JSON.stringify(stored))
})

t.test('no request makes the cache serve a stale response that must be revalidated', async () => {
  const times = fc.integer({ min: -10_000, max: 10_000 })
  const fields = fc.array(fc.constantFrom('max-stale', 'max-stale=9', 'max-age=99', 'min-fresh=0', 'only-if-cached', 'no-store', 'x')).map(all => all.join())
  fc.assert(fc.property(times, fc.nat(10_000), fc.boolean(), fields, (freshFor, grace, noCache, field) => {
    const stored = { age: 0, freshFor, staleWhileRevalidate: grace, staleIfError: grace, mustRevalidate: true, noCache }
    return (freshFor > 0 && !noCache) || (reuse(stored, field) === 'validate' && !usableOnError(stored))
  }))
})

// Storable responses (RFC 9111 §3)

const whyNot = (cacheControl: string, rest: Partial<StorableInput> = {}) => whyNotStorable({
  method: 'GET',
  status: 200,
  directives: parseCacheControl(cacheControl) ?? new Map(),
  hasTtl: false,
  statuses: new Set([200, 404]),
  hasAuthorization: false,
  hasUser: false,
  hasOwner: false,
  hasSetCookie: false,
  storesSetCookie: false,
  hasSession: false,
  variesByEverything: false,
  ...rest
})

t.test('only responses to GET are stored', async t => {
  t.equal(whyNot(''), undefined)
  for (const method of ['HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'get', 'QUERY']) t.equal(whyNot('public, max-age=9', { method }), 'method', method)
})

t.test('partial, 304 and interim responses are not stored', async t => {
  for (const status of [100, 103, 199, 206, 304]) t.equal(whyNot('public, max-age=9', { status }), 'status', String(status))
  for (const status of [200, 204, 299, 302, 404, 500, 599]) t.equal(whyNot('max-age=9', { status }), undefined, String(status))
})

t.test('a route with a ttl stores the status codes that it names', async t => {
  for (const [status, expected] of [[200, undefined], [404, undefined], [201, 'status'], [500, 'status'], [301, 'status']] as const) t.equal(whyNot('', { status, hasTtl: true }), expected, String(status))
})

t.test('no-store and private forbid, also where the route has a ttl, and private does not where the response is stored for its owner', async t => {
  const table: Array<[string, Partial<StorableInput>, string | undefined]> = [
    ['no-store', {}, 'no-store'], ['no-store', { hasTtl: true }, 'no-store'], ['no-store', { hasOwner: true }, 'no-store'], ['no-store=x', {}, 'no-store'], ['public, max-age=9, no-store', {}, 'no-store'],
    ['private', {}, 'private'], ['private', { hasTtl: true }, 'private'], ['private', { hasOwner: true }, undefined], ['private, public', {}, 'private'], ['private=""', {}, 'private'],
    ['private="x-a"', {}, undefined], ['private="x-a", private', {}, 'private'], ['no-cache', {}, undefined], ['no-cache="x-a"', {}, undefined]
  ]
  for (const [field, rest, expected] of table) t.equal(whyNot(field, rest), expected, `${field} ${JSON.stringify(rest)}`)
})

t.test('must-understand stands above no-store where the status is known, and forbids where it is not', async t => {
  const table: Array<[string, number, string | undefined]> = [
    ['must-understand, no-store', 200, undefined], ['no-store, must-understand', 200, undefined], ['must-understand, no-store', 299, 'must-understand'], ['must-understand', 299, 'must-understand'],
    ['must-understand', 200, undefined], ['must-understand, private', 200, 'private'], ['no-store', 299, 'no-store']
  ]
  for (const [field, status, expected] of table) t.equal(whyNot(field, { status }), expected, `${field} ${status}`)
})

t.test('a response to a request with Authorization is stored only where it allows that, or for its owner', async t => {
  const table: Array<[string, Partial<StorableInput>, string | undefined]> = [
    ['', {}, 'authorization'], ['max-age=9', {}, 'authorization'], ['', { hasOwner: true }, undefined], ['public', {}, undefined], ['s-maxage=9', {}, undefined], ['must-revalidate', {}, undefined],
    ['proxy-revalidate', {}, 'authorization'], ['private', { hasOwner: true }, undefined], ['no-cache', {}, 'authorization']
  ]
  for (const [field, rest, expected] of table) t.equal(whyNot(field, { hasAuthorization: true, ...rest }), expected, `${field} ${JSON.stringify(rest)}`)
})

t.test('a response of one user is not stored for all', async t => {
  const table: Array<[Partial<StorableInput>, string | undefined]> = [
    [{ hasSetCookie: true }, 'set-cookie'], [{ hasSetCookie: true, hasOwner: true }, 'set-cookie'], [{ hasSetCookie: true, storesSetCookie: true }, undefined],
    [{ hasSession: true }, 'session'], [{ hasSession: true, hasOwner: true }, undefined], [{ variesByEverything: true }, 'vary'], [{ variesByEverything: true, hasOwner: true }, 'vary']
  ]
  for (const [rest, expected] of table) t.equal(whyNot('public, max-age=9', rest), expected, JSON.stringify(rest))
})

t.test('the first targeted field that counts stands above Cache-Control, wholly', async t => {
  const table: Array<[string | undefined, Array<string | undefined>, string | undefined, boolean]> = [
    ['max-age=1', [], 'max-age', false], ['no-store', ['max-age=5'], 'max-age', true], ['max-age=1', ['no-store'], 'no-store', true], ['max-age=1', [undefined, 'private'], 'private', true],
    ['max-age=1', ['public', 'private'], 'public', true], ['no-store', [''], 'no-store', false], ['no-store', ['max-age=x'], 'no-store', false], ['no-store', ['max-age=x', 'public'], 'public', true],
    [undefined, [], undefined, false], ['a b', ['public'], 'public', true]
  ]
  for (const [field, targeted, expected, isTargeted] of table) {
    const found = effectiveDirectives(field, targeted)
    t.same([...found.directives?.keys() ?? []], expected === undefined ? [] : [expected], `${field} ${targeted.join('|')}`)
    t.equal(found.isTargeted, isTargeted)
  }
  t.equal(effectiveDirectives('max-age=', [undefined]).directives, undefined)
})

t.test('a response without explicit freshness is stored where its status, or public, allows it', async t => {
  const none = new Map<string, true>()
  for (const [status, expected] of [[200, true], [404, true], [302, false], [500, false]] as const) t.equal(isStorableWithoutFreshness(none, status), expected)
  t.equal(isStorableWithoutFreshness(new Map([['public', true]]), 302), true)
})

t.test('fields that private or no-cache names are excluded', async t => {
  const table: Array<[string, string[]]> = [['', []], ['private', []], ['private="A", no-cache="b, C"', ['a', 'b', 'c']], ['private="a", private="b"', ['a', 'b']]]
  for (const [field, expected] of table) t.same(excludedFields(parseCacheControl(field) ?? new Map()), expected, field)
})

// Stored responses

const MINUTE = 60_000
type Headers = Record<string, string | string[]>

interface Given {
  route?: RouteCacheOptions
  request?: Record<string, unknown>
  headers?: Headers
  status?: number
  state?: Partial<RequestCache>
  before?: Headers
}
function prepare ({ route = { ttl: 'headers' }, request: given = {}, headers = {}, status = 200, state = {}, before = {} }: Given) {
  const request = { method: 'GET', headers: {}, routeOptions: { url: '/' }, log: { warn () {} }, ...given } as unknown as FastifyRequest
  const reply = { statusCode: status, getHeaders: () => ({ ...headers }) } as unknown as FastifyReply
  const filling = { kind: 'filling', fill: { startedAt: NOW }, headersBefore: before, requestedAt: NOW } as unknown as Filling
  return [{ ...createState({} as never, request, reply, resolveCacheOptions({}).route(route, 'GET /'), undefined), ...state }, filling] as const
}
const of = (given: Given) => evaluateResponse(...prepare(given), NOW)
const why = (given: Given) => {
  const judged = of(given)
  return judged.kind === 'refuse' ? judged.why : undefined
}
const made = (given: Given) => {
  const judged = of(given)
  if (judged.kind !== 'store') throw new Error(JSON.stringify(judged))
  const { meta, deleteAt, varies } = judged
  // The times relative to now, as the tables state them.
  const { generatedAt, staleAt, revalidateUntil, serveOnErrorUntil } = meta
  const times = { age: NOW - generatedAt, fresh: staleAt - NOW, staleWhileRevalidate: revalidateUntil - staleAt, staleIfError: serveOnErrorUntil - staleAt }
  return { meta, times, life: deleteAt - NOW, varies }
}
const says = (cacheControl: string, rest: Headers = {}): Given => ({ headers: { 'cache-control': cacheControl, ...rest } })

t.test('a response is stored for as long as it says that it is fresh', async t => {
  const { meta, times, life, varies } = made(says('max-age=9, stale-while-revalidate=3, stale-if-error=5', { 'x-a': '1', age: '2', connection: 'close' }))
  t.strictSame(meta, {
    status: 200,
    headers: { 'cache-control': 'max-age=9, stale-while-revalidate=3, stale-if-error=5', 'x-a': '1', date: date(0) },
    vary: {},
    generatedAt: NOW - 2000,
    staleAt: NOW + 7000,
    revalidateUntil: NOW + 10_000,
    serveOnErrorUntil: NOW + 12_000,
    mustRevalidate: false,
    noCache: false
  })
  t.same(times, { age: 2000, fresh: 7000, staleWhileRevalidate: 3000, staleIfError: 5000 })
  t.equal(life, 12_000)
  t.same(varies, [])
})

t.test('a response that may not be stored is not stored', async t => {
  const table: Array<[Given, string]> = [
    [says('no-store'), 'no-store'], [says('private'), 'private'], [says('max-age='), 'malformed cache-control'], [says('max-age=9', { vary: '*' }), 'vary'], [says('max-age=9', { 'set-cookie': 'a=1' }), 'set-cookie'],
    [says('max-age=0'), 'not fresh'], [says('max-age=9', { age: '9' }), 'not fresh'], [says('max-age=x'), 'not fresh'], [{}, 'not fresh'], [{ status: 302 }, 'no freshness'], [{ ...says('max-age=9'), request: { method: 'HEAD' } }, 'method'],
    [{ ...says('max-age=9'), request: { session: { user: 1 } } }, 'session'], [{ ...says('max-age=9'), state: { hasAuthorization: true } }, 'authorization'], [{ route: { ttl: 0 } }, 'ttl 0'], [{ route: { ttl: 9 }, status: 500 }, 'status'],
    [{ route: { ttl: 9 }, ...says('no-store') }, 'no-store'], [says('', { expires: '0' }), 'not fresh'], [{ route: { ttl: () => 'soon' } }, 'invalid ttl'], [{ route: { ttl: () => -1 } }, 'ttl 0']
  ]
  for (const [given, expected] of table) t.equal(why(given), expected, JSON.stringify(given))
})

t.test('the ttl of a route takes precedence over the freshness of the response', async t => {
  const { times } = made({ route: { ttl: 5000 }, ...says('max-age=99, stale-if-error=1', { age: '50', expires: '0' }) })
  t.match(times, { fresh: 5000, age: 0, staleIfError: 1000, staleWhileRevalidate: 0 })
  t.match(made({ route: { ttl: 5000, staleWhileRevalidate: 7000 } }), { times: { fresh: 5000, staleWhileRevalidate: 7000 }, life: 12_000 })
})

t.test('a targeted field stands above Cache-Control and Expires', async t => {
  t.equal(made(says('no-store', { 'cdn-cache-control': 'max-age=7' })).times.fresh, 7000)
  t.equal(why(says('max-age=7', { 'cdn-cache-control': 'no-store' })), 'no-store')
  t.equal(why(says('max-age=7', { 'cdn-cache-control': 'public', expires: date(9) })), 'not fresh')
  t.equal(made({ route: { ttl: 'headers', targeted: ['My-Cache-Control'] }, ...says('max-age=7', { 'cdn-cache-control': 'no-store', 'my-cache-control': 'max-age=8' }) }).times.fresh, 8000)
})

t.test('a response with a validator stays stored for a while after it is stale', async t => {
  const table: Array<[Given, number, number]> = [
    [says('max-age=9', { etag: '"x"' }), 9000, 9000 + MINUTE], [says('max-age=0', { etag: '"x"' }), 0, MINUTE], [says('no-cache, max-age=9', { 'last-modified': date(-9) }), 0, MINUTE],
    [says('max-age=3600', { etag: '"x"' }), 3_600_000, 7_200_000], [says('max-age=864000', { etag: '"x"' }), 864_000_000, 864_000_000 + 24 * 60 * MINUTE], [says('', { etag: '"x"' }), 0, MINUTE]
  ]
  for (const [given, fresh, life] of table) t.match(made(given), { times: { fresh }, life }, JSON.stringify(given))
  t.equal(made(says('no-cache', { etag: '"x"' })).meta.noCache, true)
})

t.test('the selecting headers and must-revalidate are stored with a response', async t => {
  const { meta, varies } = made({ ...says('max-age=9', { vary: 'X-A, Accept, X-B' }), route: { ttl: 'headers', vary: ['accept'] }, request: { headers: { 'x-a': ' 1,  2', accept: 'z' } } })
  t.same(varies, ['x-a', 'x-b'])
  t.equal(meta.vary['x-a'], '1,2')
  t.same(Object.keys(meta.vary), ['x-a', 'x-b'])
  for (const [field, strict] of [['max-age=9', false], ['max-age=9, must-revalidate', true], ['max-age=9, proxy-revalidate', true], ['s-maxage=9', true]] as const) t.equal(made(says(field)).meta.mustRevalidate, strict, field)
})

t.test('headers set before the handler, or excluded by directives, are not stored', async t => {
  const { meta } = made({ ...says('max-age=9, no-cache="X-B"', { 'x-a': '1', 'x-b': '2', 'x-c': '3', 'content-length': '5' }), before: { 'x-a': '1' } })
  t.same(Object.keys(meta.headers).sort(), ['cache-control', 'date', 'x-c'])
})

t.test('without a word on freshness a part of its age is guessed, where that is asked for; a ttl is shortened at random', async t => {
  t.equal(made({ route: { ttl: 'headers', heuristic: 0.1 }, headers: { 'last-modified': date(-1000) } }).times.fresh, 100_000)
  for (let i = 0; i < 100; i++) {
    const { fresh } = made({ route: { ttl: 1000, jitter: 0.2 } }).times
    t.ok(fresh > 799 && fresh <= 1000)
  }
})

const meta: ResponseMeta = { status: 200, headers: { etag: '"x"', 'cache-control': 'max-age=9', date: date(-60), 'x-a': 'old' }, vary: { accept: 'a' }, ...absolute({ ...fresh, age: MINUTE, freshFor: 9000 - MINUTE }) }
const stored: StoredResponse = { kind: 'response', label: '', meta, body: Buffer.from('x'), storedAt: NOW - MINUTE, deleteAt: NOW + MINUTE, tags: {} }
const confirmed = (given: Given) => freshen(...prepare({ status: 304, ...given }), stored, NOW)

t.test('a confirmed response is fresh again, with the headers of the 304', async t => {
  t.match(confirmed({ request: { headers: { accept: 'a' } } }), { kind: 'store', meta: { status: 200, staleAt: NOW + 9000, generatedAt: NOW, vary: { accept: 'a' }, headers: { etag: '"x"', 'x-a': 'old', 'cache-control': 'max-age=9' } }, varies: ['accept'] })
  t.match(confirmed({ headers: { 'cache-control': 'max-age=20', 'x-a': 'new', age: '5', date: date(-1) } }), { kind: 'store', meta: { staleAt: NOW + 15_000, generatedAt: NOW - 5000, headers: { 'x-a': 'new', 'cache-control': 'max-age=20' } } })
})

t.test('a confirmation without content does not change of which type the stored body is', async t => {
  const html: StoredResponse = { ...stored, meta: { ...meta, headers: { ...meta.headers, 'content-type': 'text/html' } } }
  for (const [given, expected] of [['text/plain; charset=utf-8', 'text/html'], ['text/html; charset=utf-8', 'text/html; charset=utf-8']] as const) {
    t.match(freshen(...prepare({ status: 304, headers: { 'content-type': given } }), html, NOW), { meta: { headers: { 'content-type': expected } } })
  }
})

t.test('a confirmed response that may no longer be stored is not stored', async t => {
  for (const [field, expected] of [['no-store', 'no-store'], ['private', 'private'], ['max-age=', 'no-store']] as const) t.match(confirmed({ headers: { 'cache-control': field } }), { kind: 'refuse', why: expected }, field)
})

t.test('a 304 to one client leaves nothing of this client in the stored response', async t => {
  const headers = { 'set-cookie': ['sid=secret'], 'x-private': '1', 'cache-control': 'max-age=9, private="x-private"', 'x-before': '1' }
  const judged = confirmed({ headers, before: { 'x-before': '1' } })
  t.equal(judged.kind, 'store')
  if (judged.kind === 'store') t.same(Object.keys(judged.meta.headers).sort(), ['cache-control', 'date', 'etag', 'x-a'])
  const kept = confirmed({ headers, route: { ttl: 'headers', storeSetCookie: true } })
  if (kept.kind === 'store') t.same(kept.meta.headers['set-cookie'], ['sid=secret'], 'unless the route says that it may be stored')
})
