import t from 'tap'
import { parseCacheControl } from '../../plugins/cache/cache-control.js'
import { effectiveDirectives, excludedFields, mayBeKeptUnasked, whyNotStorable, type StorableInput } from '../../plugins/cache/storable.js'

const why = (cacheControl: string, rest: Partial<StorableInput> = {}) => whyNotStorable({
  method: 'GET',
  status: 200,
  directives: parseCacheControl(cacheControl) ?? new Map(),
  hasTtl: false,
  statuses: new Set([200, 404]),
  hasAuthorization: false,
  hasOwner: false,
  hasSetCookie: false,
  storesSetCookie: false,
  hasSession: false,
  variesByEverything: false,
  ...rest
})

t.test('only answers to GET are stored', async t => {
  t.equal(why(''), undefined)
  for (const method of ['HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'get', 'QUERY']) t.equal(why('public, max-age=9', { method }), 'method', method)
})

t.test('parts, confirmations and interim answers are not stored', async t => {
  for (const status of [100, 103, 199, 206, 304]) t.equal(why('public, max-age=9', { status }), 'status', String(status))
  for (const status of [200, 204, 299, 302, 404, 500, 599]) t.equal(why('max-age=9', { status }), undefined, String(status))
})

t.test('a route with a ttl stores the status codes that it names', async t => {
  for (const [status, expected] of [[200, undefined], [404, undefined], [201, 'status'], [500, 'status'], [301, 'status']] as const) t.equal(why('', { status, hasTtl: true }), expected, String(status))
})

t.test('no-store and private forbid, also where the route has a ttl, and private does not where the answer is kept for its owner', async t => {
  const table: Array<[string, Partial<StorableInput>, string | undefined]> = [
    ['no-store', {}, 'no-store'], ['no-store', { hasTtl: true }, 'no-store'], ['no-store', { hasOwner: true }, 'no-store'], ['no-store=x', {}, 'no-store'], ['public, max-age=9, no-store', {}, 'no-store'],
    ['private', {}, 'private'], ['private', { hasTtl: true }, 'private'], ['private', { hasOwner: true }, undefined], ['private, public', {}, 'private'], ['private=""', {}, 'private'],
    ['private="x-a"', {}, undefined], ['private="x-a", private', {}, 'private'], ['no-cache', {}, undefined], ['no-cache="x-a"', {}, undefined]
  ]
  for (const [field, rest, expected] of table) t.equal(why(field, rest), expected, `${field} ${JSON.stringify(rest)}`)
})

t.test('must-understand stands above no-store where the status is known, and forbids where it is not', async t => {
  const table: Array<[string, number, string | undefined]> = [
    ['must-understand, no-store', 200, undefined], ['no-store, must-understand', 200, undefined], ['must-understand, no-store', 299, 'must-understand'], ['must-understand', 299, 'must-understand'],
    ['must-understand', 200, undefined], ['must-understand, private', 200, 'private'], ['no-store', 299, 'no-store']
  ]
  for (const [field, status, expected] of table) t.equal(why(field, { status }), expected, `${field} ${status}`)
})

t.test('an answer to a request with Authorization is stored only where it says that it may, or is its owner\'s', async t => {
  const table: Array<[string, Partial<StorableInput>, string | undefined]> = [
    ['', {}, 'authorization'], ['max-age=9', {}, 'authorization'], ['', { hasOwner: true }, undefined], ['public', {}, undefined], ['s-maxage=9', {}, undefined], ['must-revalidate', {}, undefined],
    ['proxy-revalidate', {}, 'authorization'], ['private', { hasOwner: true }, undefined], ['no-cache', {}, 'authorization']
  ]
  for (const [field, rest, expected] of table) t.equal(why(field, { hasAuthorization: true, ...rest }), expected, `${field} ${JSON.stringify(rest)}`)
})

t.test('an answer that is somebody\'s is not stored for all', async t => {
  const table: Array<[Partial<StorableInput>, string | undefined]> = [
    [{ hasSetCookie: true }, 'set-cookie'], [{ hasSetCookie: true, hasOwner: true }, 'set-cookie'], [{ hasSetCookie: true, storesSetCookie: true }, undefined],
    [{ hasSession: true }, 'session'], [{ hasSession: true, hasOwner: true }, undefined], [{ variesByEverything: true }, 'vary'], [{ variesByEverything: true, hasOwner: true }, 'vary']
  ]
  for (const [rest, expected] of table) t.equal(why('public, max-age=9', rest), expected, JSON.stringify(rest))
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

t.test('without freshness of its own an answer is kept where its status, or public, allows it', async t => {
  const none = new Map<string, true>()
  for (const [status, expected] of [[200, true], [404, true], [302, false], [500, false]] as const) t.equal(mayBeKeptUnasked(none, status), expected)
  t.equal(mayBeKeptUnasked(new Map([['public', true]]), 302), true)
})

t.test('fields that private or no-cache names are kept out', async t => {
  const table: Array<[string, string[]]> = [['', []], ['private', []], ['private="A", no-cache="b, C"', ['a', 'b', 'c']], ['private="a", private="b"', ['a', 'b']]]
  for (const [field, expected] of table) t.same(excludedFields(parseCacheControl(field) ?? new Map()), expected, field)
})
