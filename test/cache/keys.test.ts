import fc from 'fast-check'
import Fastify, { type FastifyRequest } from 'fastify'
import t from 'tap'
import { compileGlob } from '../../plugins/cache/store/glob.js'
import { CacheKey, dataKey } from '../../plugins/cache/store/cache-key.js'
import { responseKey, variantKey, type ResponseKeyParts } from '../../plugins/cache/http/request-key.js'
import type { RequestReads } from '../../plugins/cache/http/reads/request-reads.js'
import type { RouteCacheOptions } from '../../plugins/cache/http/route-options.js'
import { hasSession, makeKey, splitUrl, stripQuery, whyBypassed } from '../../plugins/cache/http/request-key.js'
import { createState, type RequestCache } from '../../plugins/cache/http/request-state.js'
import { resolveCacheOptions } from '../../plugins/cache/options.js'
import { ask, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'

// Keys

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

/** Returns the values of each name in order. */
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

t.test('the id is a digest that no other key has', async t => {
  fc.assert(fc.property(text, text, (one, other) => (dataKey(one).id === dataKey(other).id) === (one === other)), { numRuns: 1000 })
  t.match(dataKey('a').id, /^[\w-]{43}$/)
  const key = dataKey('a')
  t.equal(key.id, key.id)
})

t.test('a label is the URL with its query sorted, or the name of the value', async t => {
  t.equal(responseKey(base).label, '/a?x=1&y=2')
  t.equal(responseKey({ ...base, query: 'y=2&x=1', owner: 'ann', host: 'h' }).label, '/a?x=1&y=2')
  t.equal(responseKey({ ...base, query: '' }).label, '/a')
  t.equal(dataKey('products:1').label, 'products:1')
})

t.test('the listed request headers distinguish variants, and variants expire with the list', async t => {
  const key = new CacheKey('k', '/a')
  const meta = { names: ['accept', 'x-a'], nonce: 'n', ids: [], origin: '' }
  const of = (headers: Record<string, string | string[]>, change: Partial<typeof meta> = {}, of = key) => variantKey(of, { ...meta, ...change }, headers).id
  t.equal(of({ accept: 'a, b', other: '1' }), of({ accept: 'a,b', other: '2' }))
  t.equal(of({ accept: ['a', 'b'] }), of({ accept: 'a,b' }))
  t.equal(variantKey(key, meta, {}).label, '/a')
  const all = [of({}), of({ accept: '' }), of({ accept: 'a' }), of({ 'x-a': 'a' }), of({ accept: 'a', 'x-a': 'b' }), of({ accept: 'a,b' }), of({ accept: 'a' }, { nonce: 'm' }), of({ accept: 'a' }, { names: ['accept'] }), of({ accept: 'a' }, {}, new CacheKey('l', '/a'))]
  t.equal(new Set(all).size, all.length)
})

// Keys of requests

const routeOf = (options: RouteCacheOptions) => resolveCacheOptions({}).route(options, 'GET /')
const requestOf = (given: Record<string, unknown> = {}) => ({ method: 'GET', headers: {}, raw: { url: '/' }, url: '/', query: {}, host: 'here', server: { initialConfig: {} }, ...given }) as unknown as FastifyRequest
/** A request whose URL is the one of the message, as Fastify has it. */
const at = (url: string, query: Record<string, unknown> = {}) => {
  const request = requestOf({ query, raw: { url }, originalUrl: url })
  return Object.defineProperty(request, 'url', { get: () => request.raw.url })
}
const NO_READS = { had: () => false } as unknown as RequestReads
const why = (route: RouteCacheOptions, given: Record<string, unknown> = {}, state: Partial<RequestCache> = {}) => {
  const request = requestOf(given)
  return whyBypassed({ ...createState({} as never, request, {} as never, routeOf(route), NO_READS), ...state })
}

t.test('a request with a body, an unsafe method or an identity bypasses the cache', async t => {
  const authorization = { headers: { authorization: 'Bearer x' } }
  const table: Array<[RouteCacheOptions, Record<string, unknown>, Partial<RequestCache>, string | undefined]> = [
    [{}, {}, {}, undefined], [{}, { method: 'HEAD' }, {}, undefined], [{}, { method: 'POST' }, {}, 'method'], [{}, { method: 'OPTIONS' }, {}, 'method'], [{ invalidates: ['a'] }, {}, {}, 'method'],
    [{}, { headers: { 'content-length': '0' } }, {}, 'body'], [{}, { headers: { 'transfer-encoding': 'chunked' } }, {}, 'body'],
    [{ private: () => undefined }, {}, {}, 'no owner'], [{ private: () => 'a' }, {}, { hasOwner: true }, undefined],
    [{}, { headers: { 'cache-control': 'no-store' } }, {}, undefined], [{ requestDirectives: 'obey' }, { headers: { 'cache-control': 'x, No-Store' } }, {}, 'no-store'],
    [{ requestDirectives: 'obey' }, { headers: { 'cache-control': 'no-cache' } }, {}, undefined],
    [{}, authorization, {}, 'authorization'], [{ ttl: 'headers' }, authorization, {}, undefined], [{ private: () => 'a' }, authorization, { hasOwner: true }, undefined],
    [{}, { session: { cookie: {} } }, {}, undefined], [{}, { session: { cookie: {}, user: 1 } }, {}, 'session'], [{ ttl: 'headers' }, { session: { user: 1 } }, {}, 'session'],
    [{ private: () => 'a' }, { session: { user: 1 } }, { hasOwner: true }, undefined], [{ private: () => undefined }, { session: { user: 1 } }, {}, 'no owner'],
    [{ public: true }, { session: { user: 1 } }, {}, undefined], [{ public: true }, authorization, {}, undefined]
  ]
  for (const [route, request, state, expected] of table) t.equal(why(route, request, state), expected, JSON.stringify([Object.keys(route), request]))
  t.equal(why({}, {}, { reads: undefined }), 'unwatched')
})

t.test('a session counts as an identity once it holds data', async t => {
  for (const [session, expected] of [[undefined, false], [null, false], [{}, false], [{ cookie: {} }, false], ['x', false], [{ cookie: {}, user: undefined }, true], [{ a: 1 }, true]] as const) {
    t.equal(hasSession(requestOf({ session })), expected, JSON.stringify(session))
  }
})

t.test('a URL is a path and a query, at its first question mark', async t => {
  const table: Array<[string, [string, string]]> = [['/a', ['/a', '']], ['/a?', ['/a', '']], ['/a?b', ['/a', 'b']], ['/a?b?c', ['/a', 'b?c']], ['?', ['', '']], ['', ['', '']], ['/a;b=1', ['/a;b=1', '']]]
  for (const [url, expected] of table) t.same(splitUrl(url), expected, url)
})

const include = (...names: string[]) => routeOf({ key: { query: { include: names } } })
const exclude = (...names: string[]) => routeOf({ key: { query: { exclude: names } } })

t.test('parameters that are not in the key are not in the URL either, however they are spelt', async t => {
  const table: Array<[ReturnType<typeof include>, string, string]> = [
    [include('a'), '/x', '/x'], [include('a'), '/x?a=1', '/x?a=1'], [include('a'), '/x?b=1', '/x'], [include('a'), '/x?b=1&a=1&c', '/x?a=1'], [include('a'), '/x?a=1&a=2&b=3', '/x?a=1&a=2'], [include('a'), '/x?%61=1', '/x?%61=1'],
    [include('a'), '/x?A=1', '/x'], [include('a'), '/x?a%00=1', '/x'], [include('a'), '/x?a', '/x?a'], [include('a b'), '/x?a+b=1&a%20b=2&a=3', '/x?a+b=1&a%20b=2'], [include('a'), '/x?&&', '/x'], [include('a'), '/x?b=a=1', '/x'],
    [include('a'), '/x?a=1;b=2', '/x?a=1;b=2'], [include('a'), '/x?b=1;a=2', '/x'], [include('a'), '/x?a;b=1', '/x'], [include('é'), '/x?%C3%A9=1&%E9=2', '/x?%C3%A9=1'], [include('%E9'), '/x?%E9=1', '/x?%E9=1'],
    [include(), '/x?a=1', '/x'], [include('a'), '/x?a[b]=1&c[a]=2&a[]=3', '/x?a[b]=1&a[]=3'], [include('a'), '/x?a%5Bb%5D=1', '/x?a%5Bb%5D=1'],
    [exclude('u'), '/x?u=1', '/x'], [exclude('u'), '/x?%75=1', '/x'], [exclude('u'), '/x?u', '/x'], [exclude('u'), '/x?a=1&u=2&a=3&u=4', '/x?a=1&a=3'], [exclude('u'), '/x?U=1', '/x?U=1'], [exclude('u'), '/x?a=1;u=2', '/x?a=1;u=2'],
    [exclude('a b'), '/x?a+b=1&a%20b=2&a%2Bb=3', '/x?a%2Bb=3'], [exclude('u'), '/x?a=%&u=%', '/x?a=%'], [exclude('%'), '/x?%=1&a', '/x?a'], [exclude(), '/x?a=1', '/x?a=1']
  ]
  for (const [route, url, expected] of table) {
    const request = at(url)
    const key = makeKey(request, route, undefined, '')
    stripQuery(request, route.key.query ?? (() => true))
    t.equal(request.url, expected, url)
    t.equal(makeKey(request, route, undefined, '').text, key.text, 'the key is that of what is left')
    t.equal(key.text, makeKey(at(expected), routeOf({}), undefined, '').text)
  }
})

t.test('parameters that are not in the key do not reach the handler, and whatever reaches it is in the key', async t => {
  const query = { a: '1', b: '2', __proto__: null }
  const request = at('/x?a=1&b=2', query)
  stripQuery(request, include('a').key.query ?? (() => true))
  t.strictSame(Object.entries(request.query as object), [['a', '1']])
  const app = Fastify({ routerOptions: { ignoreDuplicateSlashes: false } })
  app.get('/x', async request => {
    const keys = [include('a', 'b c'), exclude('u', '%')].map(route => {
      const copy = at(request.url, { ...request.query as object })
      stripQuery(copy, route.key.query ?? (() => true))
      return { url: copy.url, query: copy.query }
    })
    return { keys, query: request.query }
  })
  t.teardown(() => app.close())
  const name = fc.constantFrom('a', '%61', 'b+c', 'b%20c', 'b%2Bc', 'u', '%75', '%', '%25', '%FF', '%C0%80', '%ED%A0%80', '%F4%90%80%80', '', 'a%3D', '%26a', 'a;u', '__proto__')
  const pair = fc.tuple(name, fc.constantFrom('', '=', '=1', '=2', '=%', '==a')).map(([given, value]) => given + value)
  await fc.assert(fc.asyncProperty(fc.array(pair, { maxLength: 5 }).map(pairs => pairs.join('&')), async given => {
    const { keys } = (await app.inject(`/x?${given}`)).json<{ keys: Array<{ url: string, query: unknown }> }>()
    // The handler gets the query that the parser reads from the URL in the key.
    for (const { url, query } of keys) t.strictSame((await app.inject(url)).json().query, query, given)
  }), { numRuns: 200 })
})

t.test('the host, the headers that the route names and the owner are in the key, where they are to be', async t => {
  const key = (route: RouteCacheOptions, given: Record<string, unknown> = {}, owner?: string) => makeKey(requestOf({ url: '/x', ...given }), routeOf(route), owner, '').text
  t.equal(key({}, { host: 'a' }), key({}, { host: 'b' }))
  t.not(key({ key: { host: true } }, { host: 'a' }), key({ key: { host: true } }, { host: 'b' }))
  t.equal(key({ vary: ['X-A'] }, { headers: { 'x-a': 'a, b', b: '1' } }), key({ vary: ['X-A'] }, { headers: { 'x-a': 'a,b', b: '2' } }))
  t.not(key({ vary: ['X-A'] }, { headers: { 'x-a': 'a' } }), key({ vary: ['X-A'] }, { headers: { 'x-a': 'b' } }))
  t.not(key({}, {}, 'ann'), key({}, {}, 'bob'))
  t.equal(makeKey(at('/y?b&a'), routeOf({}), undefined, '').text, makeKey(at('/y?a&b'), routeOf({}), undefined, '').text)
})

// Patterns

t.test('a pattern passes the texts that it does in Redis', async t => {
  const table: Array<[string, string[], string[]]> = [
    ['', [''], ['a']], ['a', ['a'], ['', 'A', 'aa', 'ba']], ['*', ['', 'a', 'a\nb', '🫖'], []], ['**', ['', 'ab'], []], ['?', ['a', '\n', '🫖', '*'], ['', 'ab']], ['??', ['ab'], ['a', 'abc']],
    ['/items/*', ['/items/', '/items/1', '/items/1?a=b', '/items/1/2'], ['/items', 'x/items/1']], ['*/1', ['/1', 'a/1'], ['/1a', '1']], ['a*b*c', ['abc', 'aXbYc', 'abcbc'], ['ab', 'acb']],
    ['[ab]', ['a', 'b'], ['', 'c', 'ab', '[ab]']], ['[a-c]', ['a', 'b', 'c'], ['d', '-']], ['[c-a]', ['a', 'b', 'c'], ['d']], ['[^a]', ['b', '^', '\n'], ['a', '']], ['[^a-c]', ['d', '-'], ['b']], ['[a^]', ['a', '^'], ['b']],
    ['[a-]', ['a', '-'], ['b']], ['[-a]', ['a', '-'], ['b']], ['[a\\-z]', ['a', '-', 'z'], ['b', '\\']], ['[\\]]', [']'], ['\\', '\\]']], ['[\\\\]', ['\\'], [']']], ['[*?]', ['*', '?'], ['a', '']], ['[.]', ['.'], ['a']],
    ['[[]', ['['], ['[[]']], ['[^^]', ['a'], ['^']], ['[\\^a]', ['^', 'a'], ['\\', 'b']], ['[🫖]', ['🫖'], ['🫗']], ['[\uffff-🫖]', ['🫖', '\uffff', '😀'], ['a']], ['[🫖-\uffff]', ['🫖', '\uffff', '😀'], ['a']], ['[\\\n]', ['\n'], ['\\']],
    ['\\*', ['*'], ['a', '', '\\*']], ['\\?', ['?'], ['a']], ['\\[a]', ['[a]'], ['a']], ['\\\\', ['\\'], ['\\\\']], ['\\a', ['a'], ['\\a']], ['\\\n', ['\n'], ['\\\n', '\\']], ['a\\', ['a\\'], ['a']], ['\\🫖', ['🫖'], []],
    ['a.c', ['a.c'], ['abc']], ['a+', ['a+'], ['aa']], ['(a|b)', ['(a|b)'], ['a']], ['^a$', ['^a$'], ['a']], ['a{1}', ['a{1}'], ['a']], ['\\d', ['d'], ['1']], ['.*', ['.', '.a'], ['a', '']], ['.**', ['.', '.a'], ['a', '']], ['a/b', ['a/b'], []]
  ]
  for (const [glob, good, bad] of table) {
    const matches = compileGlob(glob)
    for (const text of good) t.equal(matches(text), true, `${JSON.stringify(glob)} ${JSON.stringify(text)}`)
    for (const text of bad) t.equal(matches(text), false, `${JSON.stringify(glob)} not ${JSON.stringify(text)}`)
  }
})

const anyText = fc.oneof(fc.string({ unit: fc.constantFrom(...'ab*?[]^-\\.\n/') }), fc.string({ unit: 'grapheme' }), fc.string({ unit: 'binary' }))

t.test('a text that is fully escaped passes itself alone', async () => {
  fc.assert(fc.property(anyText, anyText, (one, other) => {
    const matches = compileGlob([...one].map(character => `\\${character}`).join(''))
    return matches(one) && matches(other) === (one === other)
  }), { numRuns: 1000 })
})

t.test('a text without special characters matches itself alone', async () => {
  fc.assert(fc.property(anyText, anyText, (one, other) => {
    const plain = one.replaceAll(/[*?[\\]/g, '')
    return compileGlob(plain)(plain) && compileGlob(plain)(other) === (plain === other)
  }), { numRuns: 1000 })
})

t.test('a pattern with * matches texts with its start and its end', async () => {
  fc.assert(fc.property(anyText, anyText, anyText, (start, middle, end) => {
    const escape = (part: string) => part.replaceAll(/[*?[\\]/g, '\\$&')
    // Halves of a character that come together are one.
    fc.pre(!/[\ud800-\udfff]/u.test(start + end))
    return compileGlob(`${escape(start)}*${escape(end)}`)(start + middle + end)
  }), { numRuns: 1000 })
})

t.test('any text is a pattern', async t => {
  fc.assert(fc.property(anyText, anyText, (glob, other) => { compileGlob(glob)(other) }), { numRuns: 2000 })
  t.pass('none of them threw')
})

onBothStores('routes of one path that regular expressions of hosts distinguish never share a response', async (t, store) => {
  const { app } = await createCacheApp(t, {
    store,
    routes: app => {
      for (const shop of ['ann', 'bob']) app.get('/', { constraints: { host: new RegExp(`^${shop}\\.`) }, config: { cache: true } }, async () => shop)
    }
  })
  for (const shop of ['ann', 'bob', 'ann', 'bob']) {
    t.equal((await ask(app, '/', { host: `${shop}.example` })).body, shop)
    await settled(app)
  }
  t.equal((await ask(app, '/', { host: 'bob.example' })).cache, 'HIT')
})

t.test('a constraint whose value has no unique text is refused on a cached route', async t => {
  const { app } = await createCacheApp(t, {
    server: {
      routerOptions: {
        constraints: {
          tier: {
            name: 'tier',
            storage: () => ({ get: () => null, set: () => {} }),
            deriveConstraint: () => 'a',
            validate: () => {}
          }
        }
      }
    } as never
  })
  const constraints = { tier: (name: string) => name === 'a' }
  app.get('/plain', { constraints }, async () => 'plain')
  t.throws(() => app.get('/cached', { constraints, config: { cache: true } }, async () => 'cached'), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message: /constraints of GET \/cached/ })
})
