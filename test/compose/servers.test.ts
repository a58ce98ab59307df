import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { settled } from '../helpers/cache/cache-app.js'
import { createShop, keepsPromises, MAX, type Shop } from '../helpers/compose/shop.js'
import { http1, http2, Visitor } from '../helpers/compose/visitors.js'
import { makeCertificate } from '../helpers/servers/certificate.js'
import { findNginx, startNginx } from '../helpers/servers/nginx.js'
import { scratchDir } from '../../tools/servers/scratch.js'
import { startTlsProxy } from '../helpers/servers/tls-proxy.js'

// The same promises with every protocol of clients and every proxy in front of the app.

const certificate = await makeCertificate()
const { cert: ca } = certificate

/** Redirects to HTTPS, as many apps do. */
function redirectsToHttps (app: FastifyInstance): void {
  app.addHook('onRequest', async (request, reply) => {
    if (request.protocol !== 'https') return await reply.redirect(`https://${request.host}${request.url}`)
  })
}

async function listen ({ app }: Shop): Promise<{ origin: string, port: number }> {
  const origin = (await app.listen({ port: 0, host: '127.0.0.1' })).replace('localhost', '127.0.0.1')
  return { origin, port: Number(new URL(origin).port) }
}

t.test('over HTTP/2 without TLS all plugins keep their promises', async t => {
  const shop = await createShop(t, { server: { http2: true } })
  const { origin } = await listen(shop)
  await keepsPromises(t, shop, { origin, transport: http2(t, { origin }) })
})

t.test('over HTTP/2 with TLS all plugins keep their promises', async t => {
  const shop = await createShop(t, { server: { http2: true, https: { ...certificate, allowHTTP1: true } }, before: redirectsToHttps })
  const { origin } = await listen(shop)
  await keepsPromises(t, shop, { origin, transport: http2(t, { origin, ca }) })
  t.equal((await new Visitor('guest', http2(t, { origin, ca })('127.0.0.4')).get('/terms')).cache, 'MISS')
  await settled(shop.app)
  t.equal((await new Visitor('guest', http1({ origin, ca })('127.0.0.4')).get('/terms')).cache, 'HIT', 'clients of HTTP/1.1 share the stored responses')
})

t.test('over HTTP/1.1 on a server of TLS all plugins keep their promises', async t => {
  const shop = await createShop(t, { server: { https: certificate }, before: redirectsToHttps })
  const { origin } = await listen(shop)
  await keepsPromises(t, shop, { origin, transport: http1({ origin, ca }) })
})

for (const appendsPort of [false, true]) {
  t.test(`behind a TLS proxy that sends X-Forwarded-For ${appendsPort ? 'with' : 'without'} the client's port all plugins keep their promises`, async t => {
    const shop = await createShop(t, { server: { trustProxy: '127.0.0.1' }, before: redirectsToHttps })
    const { port } = await listen(shop)
    const { origin } = await startTlsProxy({ ...certificate, target: { port }, appendsPort })
    await keepsPromises(t, shop, { origin, transport: http1({ origin, ca }) })
  })
}

t.test('behind a TLS proxy that reaches the app by its unix socket all plugins keep their promises', async t => {
  const shop = await createShop(t, { server: { trustProxy: true }, before: redirectsToHttps })
  const socketPath = join(scratchDir(), 'app.sock')
  await shop.app.listen({ path: socketPath })
  const { origin } = await startTlsProxy({ ...certificate, target: { socketPath } })
  await keepsPromises(t, shop, { origin, transport: http1({ origin, ca }) })
})

t.test('on a unix socket without a trusted proxy, requests are served, and all clients share one limit', async t => {
  const shop = await createShop(t)
  const socketPath = join(scratchDir(), 'app.sock')
  await shop.app.listen({ path: socketPath })
  const transport = http1({ origin: 'http://localhost', socketPath })
  const [ann, bob] = [new Visitor('ann', transport('')), new Visitor('bob', transport(''))]
  for (const user of [ann, bob, ann]) {
    t.equal((await user.post('/login', { user: user.name })).status, 200)
    t.same((await user.get('/me')).json(), { user: user.name })
  }
  const { status, headers } = await bob.get('/page')
  t.match([status, headers['x-ratelimit-remaining']], [200, String(MAX - ann.sent - bob.sent)])
})

const nginx = findNginx()
const isMissing = nginx === undefined && 'nginx is not installed'

t.test('behind nginx, which speaks HTTP/2 and TLS with clients, all plugins keep their promises', { skip: isMissing }, async t => {
  const shop = await createShop(t, { server: { trustProxy: '127.0.0.1' }, before: redirectsToHttps })
  const { port } = await listen(shop)
  const { origin } = await startNginx(String(nginx), `http://127.0.0.1:${port}`, certificate)
  await keepsPromises(t, shop, { origin, transport: http2(t, { origin, ca }) })
})

t.test('behind nginx, which reaches the app by its unix socket, all plugins keep their promises', { skip: isMissing }, async t => {
  const shop = await createShop(t, { server: { trustProxy: true }, before: redirectsToHttps })
  const socketPath = join(scratchDir(), 'app.sock')
  await shop.app.listen({ path: socketPath })
  const { origin } = await startNginx(String(nginx), `http://unix:${socketPath}:`, certificate)
  await keepsPromises(t, shop, { origin, transport: http1({ origin, ca }) })
})
