import fc from 'fast-check'
import t from 'tap'
import { freshenedHeaders, isHeaders, joined, requestDirectives, storedHeaders } from '../../plugins/cache/headers.js'

t.test('headers of the connection, of one answer, and those that Connection names are not stored', async t => {
  const own = { 'content-type': 'text/plain', etag: '"x"', vary: 'accept', date: 'x', expires: '0', 'x-rate': '1', 'access-control-allow-origin': '*' }
  const others = ['keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-authentication-info', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'age', 'x-cache', 'cache-status',
    'content-length', 'ratelimit', 'ratelimit-policy', 'x-ratelimit-limit', 'x-a', 'x-b']
  const all = { ...own, ...Object.fromEntries(others.map(name => [name, 'v'])), connection: 'close, X-A ,x-b,' }
  t.strictSame(storedHeaders(all, {}), own)
  t.strictSame(storedHeaders({ 'x-a': '1', 'x-b': '2', connection: ['X-A', 'x-c'] }, {}), { 'x-b': '2' })
})

t.test('what stood there before the handler ran is not stored, unless the handler changed it', async t => {
  const list = ['a']
  const before = { 'x-request-id': '1', vary: 'origin', n: 5, link: list }
  t.strictSame(storedHeaders({ 'x-request-id': '1', vary: 'origin, accept', n: 6, link: list, own: 'y' }, before), { vary: 'origin, accept', n: '6', own: 'y' })
})

t.test('values are stored as text, one by one, and excluded ones not at all', async t => {
  t.strictSame(storedHeaders({ a: 1, b: ['x', 2], c: undefined, d: true, 'set-cookie': ['a=1', 'b=2'] }, {}, ['d']), { a: '1', b: ['x', '2'], 'set-cookie': ['a=1', 'b=2'] })
  t.strictSame(storedHeaders({ 'set-cookie': 'a', 'x-a': '1' }, {}, ['set-cookie']), { 'x-a': '1' })
})

t.test('what confirms an answer brings its headers up to date, but not those of the body', async t => {
  const stored = { etag: '"old"', 'content-encoding': 'gzip', 'cache-control': 'max-age=1', 'x-kept': 'k' }
  const confirmed = { etag: '"new"', 'content-encoding': 'br', 'content-length': '0', 'content-range': 'bytes */1', 'content-md5': 'x', 'cache-control': 'max-age=9', 'x-new': ['n'] }
  t.strictSame(freshenedHeaders(stored, confirmed), { ...stored, 'cache-control': 'max-age=9', 'x-new': ['n'] })
  t.equal(stored['cache-control'], 'max-age=1')
})

t.test('only what can be sent is headers', async t => {
  for (const good of [{}, { a: '' }, { 'x-a': 'b' }, { a: ['b', 'c'] }, { a: [] }, { a: '\t é~' }, { constructor: 'x' }]) t.equal(isHeaders(good), true, JSON.stringify(good))
  const bad: unknown[] = [undefined, null, 'a', 1, [], ['a'], { '': 'x' }, { 'a b': 'x' }, { 'a:': 'x' }, { é: 'x' }, { 'a\r\n': 'x' }, { a: 1 }, { a: null }, { a: undefined }, { a: {} }, { a: ['b', 1] }, { a: [['b']] },
    { a: 'x\r\ny' }, { a: 'x\n' }, { a: '\0' }, { a: '\u007f' }, { a: '\u0100' }, { a: ['x', 'y\r'] }, JSON.parse('{"__proto__":"x"}')]
  for (const value of bad) t.equal(isHeaders(value), false, JSON.stringify(value))
})

t.test('what passes for headers can be set on a message', async t => {
  const { ServerResponse, IncomingMessage } = await import('node:http')
  const { Socket } = await import('node:net')
  const message = new ServerResponse(new IncomingMessage(new Socket()))
  const text = fc.oneof(fc.string(), fc.string({ unit: 'binary' }))
  fc.assert(fc.property(fc.dictionary(text, fc.oneof(text, fc.array(text, { maxLength: 2 }))), headers => {
    if (isHeaders(headers)) for (const [name, value] of Object.entries(headers)) message.setHeader(name, value)
  }), { numRuns: 500 })
  t.pass('none of them threw')
})

t.test('a field that is there several times is one text', async t => {
  const table: Array<[unknown, string | undefined]> = [[undefined, undefined], ['a', 'a'], [['a', 'b'], 'a, b'], [5, '5'], [[], '']]
  for (const [value, expected] of table) t.equal(joined(value), expected)
})

t.test('the directives of a request are those of Cache-Control; of Pragma where there is none; none where it cannot be read', async t => {
  const table: Array<[Record<string, string | string[]>, string[] | undefined]> = [
    [{}, undefined], [{ 'cache-control': '' }, []], [{ 'cache-control': 'no-cache, max-age=5' }, ['no-cache', 'max-age']], [{ 'cache-control': ['no-cache', 'no-store'] }, ['no-cache', 'no-store']],
    [{ pragma: 'no-cache' }, ['no-cache']], [{ pragma: 'No-Cache, x' }, ['no-cache']], [{ pragma: 'x' }, undefined], [{ pragma: 'no-cache', 'cache-control': 'max-age=5' }, ['max-age']],
    [{ pragma: 'no-cache', 'cache-control': '' }, []], [{ 'cache-control': 'no-store=' }, undefined], [{ 'cache-control': 'a b' }, undefined]
  ]
  for (const [headers, expected] of table) {
    const found = requestDirectives(headers)
    t.same(found && [...found.keys()], expected, JSON.stringify(headers))
  }
})
