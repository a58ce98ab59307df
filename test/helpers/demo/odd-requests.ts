// Malformed requests to the demo, generated from a seed.
import fc from 'fast-check'
import type { FastifyInstance, InjectOptions, LightMyRequestResponse } from 'fastify'
import { DEMO_PASSWORD } from '../../../demo/seed.js'
import { client } from '../app/client.js'

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const
const PATHS = ['/', '/products', '/products/search', '/products/*', '/login', '/logout', '/me', '/me/sessions', '/me/sessions/*', '/cart', '/cart/items',
  '/cart/items/*', '/orders', '/leaderboard', '/leaderboard/*', '/sale/*', '/sale/*/buy', '/me/mails', '/statistics/visitors', '/reports/sales', '/live/parcels', '/live/parcels/dead', '/live/views', '/live/payments', '/health', '/health/*', '/docs', '/docs/*', '/docs/static/*', '/*']
const NAMES = ['category', 'minPrice', 'maxPrice', 'sort', 'limit', 'offset', 'q', 'email', 'password', 'name', 'priceCents', 'stock', 'productId', 'quantity', 'pieces', 'neighbours', '__proto__', 'constructor', 'toString']
const ODD_NUMBERS = [0, -0, -1, 1, 1.5, 99, 100, 1e8, 2 ** 31 - 1, 2 ** 31, 2 ** 53, 1e21, 1e308, -(2 ** 31)]
const ODD_TEXTS = ['', ' ', '\u0000', 'a\u0000b', '\ud800', '\udfff\ud800', '\uffff', '🫖', '\u202e', "'", '"', '\\', '%', '%00', '..', '../..', '%2e%2e', 'null', 'NaN', 'Infinity', '1e3', '0x10', '-',
  ':*', '& | !', '"a b', 'or or', 'x'.repeat(100), 'x'.repeat(5000), 'user1@example.com', 'price', 'İ'.repeat(100)]

const text = fc.oneof(fc.constantFrom(...ODD_TEXTS), fc.string({ unit: 'binary' }), fc.constantFrom(...ODD_NUMBERS).map(String))
const value = fc.oneof(text, fc.constantFrom(...ODD_NUMBERS), fc.constantFrom(null, true, [], {}, [1], ['a']), fc.jsonValue())
const name = fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...NAMES) }, { weight: 1, arbitrary: text })
const escape = (part: string) => encodeURIComponent(Buffer.from(part).toString())
const segment = fc.oneof(text.map(escape), fc.constant('1'), fc.constantFrom('%', '%ff', '%E0%A4%A', '%00', '//', '?', '#', ';'))
const query = fc.oneof(
  fc.array(fc.tuple(name, text), { maxLength: 4 }).map(pairs => pairs.map(([key, given]) => `${escape(key)}=${escape(given)}`).join('&')),
  fc.constantFrom('', '%', '%ff=%ff', 'q=%ff', 'q=%00', '&&&', '==', 'q[]=a', 'q[a]=b', 'category=%E0%A4', 'limit=1&limit=2'))
const body = fc.oneof(
  fc.array(fc.tuple(name, value), { maxLength: 4 }).map(pairs => JSON.stringify(Object.fromEntries(pairs))),
  value.map(given => JSON.stringify(given)),
  fc.constantFrom('', '{', '{"__proto__":{"a":1}}', '{"constructor":{"prototype":1}}', '{"name":"\\ud800"}', '[]', '\u0000', '{"productId":1,"quantity":1}', '{"productId":1e999,"quantity":1}'),
  text)
const header = fc.tuple(
  fc.constantFrom('content-type', 'accept', 'cookie', 'if-none-match', 'cache-control', 'x-forwarded-for', 'origin', 'range', 'content-encoding', 'idempotency-key', 'host', 'accept-encoding'),
  fc.oneof(fc.constantFrom('', 'application/json', 'text/plain', 'application/xml', 'application/json; charset=x', 'multipart/form-data', 'sid=', 'sid=x', 'sid=%00', 'sid=%E0', 'sid=a.b; sid=c',
    'sid=__proto__.x', '*', 'W/"x"', 'no-store', 'max-age=x', 'bytes=0-', 'gzip', '::', '999.1.1.1', 'a, b'), text))
const anything = fc.record({
  method: fc.constantFrom(...METHODS),
  path: fc.tuple(fc.constantFrom(...PATHS), segment).map(([path, part]) => path.replace('*', part)),
  query,
  body: fc.option(body),
  headers: fc.array(header, { maxLength: 3 }).map(pairs => Object.fromEntries(pairs)),
  isAdmin: fc.boolean()
})

// Requests with one invalid value: others rarely reach the handler.
const almostRight = fc.oneof(
  fc.tuple(fc.constantFrom('/products?category=', '/products?limit=', '/products?offset=', '/products?minPrice=', '/products?maxPrice=', '/products/search?q=', '/products/search?q=tea&limit=', '/leaderboard?limit='), text)
    .map(([url, given]) => ({ method: 'GET' as const, path: url + escape(given), body: null })),
  fc.tuple(fc.constantFrom(['GET', '/products/'] as const, ['DELETE', '/cart/items/'] as const, ['DELETE', '/me/sessions/'] as const), segment)
    .map(([[method, path], part]) => ({ method, path: path + part, body: null })),
  fc.constantFrom(
    ['POST', '/cart/items', { productId: 1, quantity: 1 }] as const,
    ['PUT', '/products/1', { name: 'Teapot', priceCents: 1, stock: 1 }] as const,
    ['PATCH', '/me', { name: 'Admin' }] as const,
    ['POST', '/login', { email: 'user1@example.com', password: 'guess' }] as const
  ).chain(([method, path, valid]) => fc.tuple(fc.constantFrom(...Object.keys(valid)), value)
    .map(([key, given]) => ({ method, path, body: JSON.stringify({ ...valid, [key]: given }) })))
).map(request => ({ ...request, query: '', headers: {}, isAdmin: true }))
const oddRequest = fc.oneof(anything, almostRight)

type OddRequest = typeof oddRequest extends fc.Arbitrary<infer T> ? T : never

/**
 * Sends malformed requests, also as an admin.
 *
 * @returns the statuses of the responses
  * @throws if a response has a status of 500 or above, with the smallest request that causes it
 */
export async function sendOddRequests (app: FastifyInstance, options: { numRuns: number, seed?: number }): Promise<Set<number>> {
  const statuses = new Set<number>()
  let admin = client(app, '10.0.0.1')
  let address = 0

  async function send (given: OddRequest): Promise<LightMyRequestResponse> {
    const { method, path, query, body, headers, isAdmin } = given
    const request: InjectOptions = {
      method,
      url: query === '' ? path : `${path}?${query}`,
      headers: { 'content-type': 'application/json', ...headers },
      remoteAddress: `10.${++address >> 16 & 255}.${address >> 8 & 255}.${address & 255}`
    }
    if (body !== null) request.payload = body
    if (isAdmin) request.cookies = admin.cookies
    return await app.inject(request)
  }

  await fc.assert(fc.asyncProperty(oddRequest, async given => {
    // A request may have logged it out.
    if ((await admin.send('GET', '/me')).statusCode !== 200) {
      admin = client(app, '10.0.0.1')
      await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })
    }
    const { statusCode, body } = await send(given)
    statuses.add(statusCode)
    if (statusCode >= 500) throw new Error(`${statusCode} to ${JSON.stringify(given)}: ${body}`)
  }), options)
  return statuses
}
