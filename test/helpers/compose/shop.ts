// One shop with session, cache, rate limit and idempotency, and the promises to its users in any composition.
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { createTestApp, type TestApp } from '../index.js'
import { settled } from '../cache/cache-app.js'
import { Visitor, type Answer, type Headers, type Transport } from './visitors.js'

/** How many requests a client may send in an hour. */
export const MAX = 20

export interface Shop extends TestApp {
  /** How many requests the limiter has counted. */
  counted: () => number
}

export interface ShopOptions {
  server?: FastifyServerOptions & { http2?: true, https?: object }
  /** Registers other plugins before the suite's plugins or after them. */
  before?: ((app: FastifyInstance) => unknown) | undefined
  after?: ((app: FastifyInstance) => unknown) | undefined
}

export async function createShop (t: Test, { server, before, after }: ShopOptions = {}): Promise<Shop> {
  const shop = await createTestApp(t, {
    store: 'redis',
    ready: false,
    ...server && { server },
    ...before && { before },
    plugins: { rateLimit: { max: MAX, timeWindow: '1h' }, session: {}, cache: { ttl: '1m', staleWhileRevalidate: '1h' }, idempotency: {} },
    routes: async app => {
      await after?.(app)
      addRoutes(app)
    }
  })
  let counted = 0
  shop.app.rateLimiter.on('allowed', () => { counted++ })
  return { ...shop, counted: () => counted }
}

function addRoutes (app: FastifyInstance): void {
  let pages = 0
  let orders = 0
  // Links of the page are absolute, like those of a feed or a sitemap.
  app.get('/page', { config: { cache: { public: true, tags: ['page'], key: { host: true } } } }, async ({ protocol, host }) =>
    ({ run: ++pages, link: `${protocol}://${host}/page`, text: 'abc'.repeat(500) }))
  app.get('/terms', { config: { cache: { public: true } } }, async () => 'terms')
  app.get('/me', { config: { cache: { private: ({ session }) => session.userId } } }, async ({ session }) => ({ user: session.userId ?? null }))
  app.post<{ Body: { user: string } }>('/login', async request => {
    await request.login(request.body.user)
    return { user: request.body.user }
  })
  app.post('/logout', async request => { await request.logout() })
  app.post('/orders', { config: { idempotency: true, cache: { invalidates: ['page'] } } }, async ({ session }) => ({ order: ++orders, of: session.userId }))
}

export interface Promises {
  transport: Transport
  /** The origin of the shop, as clients know it. */
  origin: string
  /** Headers that each of the two users sends. */
  headers?: [Headers, Headers]
  /** Asserts a property of each response; it may return the decoded body. */
  each?: (answer: Answer, user: Visitor) => string | undefined
}

/**
 * Asserts from outside what the four plugins promise. Logins set a cookie and logouts clear it. Pages are cached and refreshed in the background.
 * Users share nothing, orders are placed once, and each client has its own limit.
 */
export async function keepsPromises (t: Test, { app, clock, counted, warnings }: Shop, { transport, origin, headers = [{}, {}], each = () => undefined }: Promises): Promise<void> {
  const [ann, bob] = ['ann', 'bob'].map((name, i) => new Visitor(name, transport(`127.0.0.${i + 2}`), headers[i])) as [Visitor, Visitor]
  const isSecure = origin.startsWith('https:')
  const read = (answer: Answer, user: Visitor) => ({ ...answer, body: each(answer, user) ?? answer.body })
  const get = async (user: Visitor, url: string, more?: Headers) => read(await user.get(url, more), user)
  const post = async (user: Visitor, url: string, body?: object, more?: Headers) => read(await user.post(url, body, more), user)
  const page = async (user: Visitor) => {
    const { cache, body } = await get(user, '/page')
    const { run, link } = JSON.parse(body) as { run: number, link: string }
    t.equal(link, `${origin}/page`, 'links have the origin that the client knows')
    return { run, cache }
  }

  for (const user of [ann, bob]) {
    const { cookie, body } = await post(user, '/login', { user: user.name })
    t.same(JSON.parse(body), { user: user.name })
    t.match(cookie, /; HttpOnly/)
    t.match(cookie, /; SameSite=Lax/)
    t.equal(/; Secure/.test(String(cookie)), isSecure, 'the cookie is Secure exactly where the client uses TLS')
  }

  const first = await page(ann)
  t.same(first, { run: 1, cache: 'MISS' })
  await settled(app)
  t.same(await page(bob), { run: 1, cache: 'HIT' })
  await clock.advance('2m')
  t.same(await page(bob), { run: 1, cache: 'STALE' }, 'a stale page is served at once')
  await settled(app)
  t.same(await page(ann), { run: 2, cache: 'HIT' }, 'the page was refreshed in the background')

  for (const user of [ann, bob, ann, bob]) t.same(JSON.parse((await get(user, '/me')).body), { user: user.name })
  t.match(await get(ann, '/me'), { cache: 'HIT', headers: { 'cache-control': /private/ } }, 'each user\'s own copy is cached')

  const order = async (user: Visitor) => await post(user, '/orders', {}, { 'idempotency-key': 'one' })
  const [placed, again, other] = [await order(ann), await order(ann), await order(bob)]
  t.match([placed.status, JSON.parse(placed.body), placed.headers['idempotency-replayed']], [200, { order: 1, of: 'ann' }, undefined])
  t.match([JSON.parse(again.body), again.headers['idempotency-replayed']], [{ order: 1, of: 'ann' }, 'true'], 'a repeated order is placed once')
  t.same(JSON.parse(other.body), { order: 2, of: 'bob' }, 'a key of one user is not that of another')
  t.same(await page(ann), { run: 3, cache: 'MISS' }, 'an order invalidates the page')

  t.equal(counted(), ann.sent + bob.sent, 'each request is counted, and the one in the background is not')
  const out = await post(ann, '/logout')
  t.same(ann.cookies, [], 'the browser forgets the cookie')
  t.equal(/; Secure/.test(String(out.cookie)), isSecure, 'the cookie is cleared with the attributes that it was set with')
  const anonymous = await get(ann, '/me')
  t.same([JSON.parse(anonymous.body), anonymous.cache], [{ user: null }, 'BYPASS'], 'a user who has logged out is a guest')

  while (ann.sent < MAX) t.equal((await get(ann, '/page')).status, 200)
  const refused = await get(ann, '/page')
  t.match([refused.status, refused.headers['x-ratelimit-remaining']], [429, '0'], 'a client is refused after its last request')
  const { status, headers: { 'x-ratelimit-remaining': remaining } } = await get(bob, '/page')
  t.match([status, remaining], [200, String(MAX - bob.sent)], 'each client has its own count')
  t.same(warnings(), [], 'nothing is warned of')
}
