import fc from 'fast-check'
import Fastify, { type FastifyRequest } from 'fastify'
import t from 'tap'
import { hasSession, keyOf, splitUrl, stripQuery, whyBypassed } from '../../plugins/cache/request-key.js'
import { createState, type RequestCache } from '../../plugins/cache/request-state.js'
import { resolveCacheOptions } from '../../plugins/cache/resolve-options.js'
import type { RouteCacheOptions } from '../../plugins/cache/options.js'

const routeOf = (options: RouteCacheOptions) => resolveCacheOptions({}).route(options, 'GET /')
const requestOf = (given: Record<string, unknown> = {}) => ({ method: 'GET', headers: {}, raw: { url: '/' }, url: '/', query: {}, host: 'here', server: { initialConfig: {} }, ...given }) as unknown as FastifyRequest
/** A request whose URL is the one of the message, as Fastify has it. */
const at = (url: string, query: Record<string, unknown> = {}) => {
  const request = requestOf({ query, raw: { url }, originalUrl: url })
  return Object.defineProperty(request, 'url', { get: () => request.raw.url })
}
const why = (route: RouteCacheOptions, given: Record<string, unknown> = {}, state: Partial<RequestCache> = {}) => {
  const request = requestOf(given)
  return whyBypassed(request, { ...createState(request, routeOf(route)), ...state })
}

t.test('what is not a plain question, or is somebody\'s, is not answered out of the cache', async t => {
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
})

t.test('a session is somebody\'s once it holds something', async t => {
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
    const key = keyOf(request, route, undefined, '')
    stripQuery(request, route.keysParameter ?? (() => true))
    t.equal(request.url, expected, url)
    t.equal(keyOf(request, route, undefined, '').text, key.text, 'the key is that of what is left')
    t.equal(key.text, keyOf(at(expected), routeOf({}), undefined, '').text)
  }
})

t.test('parameters that are not in the key do not reach the handler, and whatever reaches it is in the key', async t => {
  const query = { a: '1', b: '2', __proto__: null }
  const request = at('/x?a=1&b=2', query)
  stripQuery(request, include('a').keysParameter ?? (() => true))
  t.strictSame(Object.entries(request.query as object), [['a', '1']])
  const app = Fastify({ routerOptions: { ignoreDuplicateSlashes: false } })
  app.get('/x', async request => {
    const keys = [include('a', 'b c'), exclude('u', '%')].map(route => {
      const copy = at(request.url, { ...request.query as object })
      stripQuery(copy, route.keysParameter ?? (() => true))
      return { url: copy.url, query: copy.query }
    })
    return { keys, query: request.query }
  })
  t.teardown(() => app.close())
  const name = fc.constantFrom('a', '%61', 'b+c', 'b%20c', 'b%2Bc', 'u', '%75', '%', '%25', '%FF', '%C0%80', '%ED%A0%80', '%F4%90%80%80', '', 'a%3D', '%26a', 'a;u', '__proto__')
  const pair = fc.tuple(name, fc.constantFrom('', '=', '=1', '=2', '=%', '==a')).map(([given, value]) => given + value)
  await fc.assert(fc.asyncProperty(fc.array(pair, { maxLength: 5 }).map(pairs => pairs.join('&')), async given => {
    const { keys } = (await app.inject(`/x?${given}`)).json<{ keys: Array<{ url: string, query: unknown }> }>()
    // What the parser makes of the URL that is in the key is what the handler is given.
    for (const { url, query } of keys) t.strictSame((await app.inject(url)).json().query, query, given)
  }), { numRuns: 200 })
})

t.test('the host, the headers that the route names and the owner are in the key, where they are to be', async t => {
  const key = (route: RouteCacheOptions, given: Record<string, unknown> = {}, owner?: string) => keyOf(requestOf({ url: '/x', ...given }), routeOf(route), owner, '').text
  t.equal(key({}, { host: 'a' }), key({}, { host: 'b' }))
  t.not(key({ key: { host: true } }, { host: 'a' }), key({ key: { host: true } }, { host: 'b' }))
  t.equal(key({ vary: ['X-A'] }, { headers: { 'x-a': 'a, b', b: '1' } }), key({ vary: ['X-A'] }, { headers: { 'x-a': 'a,b', b: '2' } }))
  t.not(key({ vary: ['X-A'] }, { headers: { 'x-a': 'a' } }), key({ vary: ['X-A'] }, { headers: { 'x-a': 'b' } }))
  t.not(key({}, {}, 'ann'), key({}, {}, 'bob'))
  t.equal(keyOf(requestOf(), routeOf({}), undefined, '', '/y?b&a').text, keyOf(at('/y?a&b'), routeOf({}), undefined, '').text)
})
