import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { request as httpRequest } from 'node:http'
import { request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { root } from '../helpers/docs/doc-blocks.js'
import { sharedRedis, until } from '../helpers/index.js'
import { makeCertificate } from '../helpers/servers/certificate.js'
import { findNginx, startNginxSite } from '../helpers/servers/nginx.js'

process.env['REDIS_URL'] = (await sharedRedis()).url
process.env['LOG_LEVEL'] = 'silent'

const { build } = await import('../../examples/guides/in-front.js')
const site = await readFile(join(root, 'examples/guides/in-front.nginx'), 'utf8')
const certificate = await makeCertificate()
const nginx = findNginx()
const isMissing = nginx === undefined && 'nginx is not installed'

/** The address of a stand-in for Cloudflare, and of a client that reaches nginx directly. */
const CLOUDFLARE = '127.0.0.2'
const CLIENT = '127.0.0.3'

interface Received {
  status: number | undefined
  headers: IncomingMessage['headers']
  body: string
}

async function receive (response: IncomingMessage): Promise<Received> {
  let body = ''
  for await (const chunk of response.setEncoding('utf8')) body += chunk
  return { status: response.statusCode, headers: response.headers, body }
}

/** Starts the app of the page behind the nginx of the page. */
async function start (t: Test, trustProxy: string | false = '127.0.0.1') {
  await (await sharedRedis()).client().flushall()
  const app = await build({ trustProxy })
  t.teardown(() => app.close())
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port: appPort } = app.server.address() as AddressInfo
  const { origin } = await startNginxSite(String(nginx), certificate, (dir, port) => [
    ['include /etc/nginx/cloudflare.conf;', `set_real_ip_from ${CLOUDFLARE};`],
    ['listen 443 ssl;', `listen 127.0.0.1:${port} ssl;`],
    ['/etc/nginx/shop.pem', `${dir}/cert.pem`],
    ['/etc/nginx/shop.key', `${dir}/key.pem`],
    ['127.0.0.1:3000', `127.0.0.1:${appPort}`]
  ].reduce((text, [from = '', to = '']) => {
    if (!text.includes(from)) throw new Error(`examples/guides/in-front.nginx has no ${from}`)
    return text.replace(from, to)
  }, site))
  const open = async (path: string, { from = CLIENT, headers = {}, method = 'GET' }: { from?: string, headers?: Record<string, string>, method?: string } = {}) => {
    const sent = request(origin + path, { method, localAddress: from, agent: false, ca: certificate.cert, servername: 'localhost', headers: { host: 'shop.example', ...headers } }).end()
    t.teardown(() => sent.destroy())
    const [response] = await once(sent, 'response') as [IncomingMessage]
    return response
  }
  const ask = async (...args: Parameters<typeof open>) => await receive(await open(...args))
  return { app, open, ask }
}

t.test('the app sees the address, protocol and host of the client, whatever headers the client forges', { skip: isMissing }, async t => {
  const { ask } = await start(t)
  const seen = { ip: CLIENT, protocol: 'https', host: 'shop.example' }
  t.same(JSON.parse((await ask('/client')).body), seen)
  const forged = {
    'x-forwarded-for': '198.51.100.66', 'x-forwarded-host': 'evil.example', 'x-forwarded-proto': 'http', 'cf-connecting-ip': '198.51.100.66', 'x-real-ip': '198.51.100.66'
  }
  t.same(JSON.parse((await ask('/client', { headers: forged })).body), seen)
})

t.test('behind Cloudflare the address is that of CF-Connecting-IP, for IPv4 and IPv6', { skip: isMissing }, async t => {
  const { ask } = await start(t)
  for (const ip of ['203.0.113.7', '2001:db8::7']) {
    const { body } = await ask('/client', { from: CLOUDFLARE, headers: { 'cf-connecting-ip': ip, 'x-forwarded-for': `198.51.100.66, ${ip}` } })
    t.equal(JSON.parse(body).ip, ip)
  }
})

t.test('each client has its own limit, and its session cookie is Secure', { skip: isMissing }, async t => {
  const { ask } = await start(t)
  for (let i = 0; i < 5; i++) t.equal((await ask('/client')).status, 200)
  t.equal((await ask('/client')).status, 429)
  t.equal((await ask('/client', { headers: { 'x-forwarded-for': '198.51.100.66' } })).status, 429)
  const login = await ask('/login/ann', { from: '127.0.0.4', method: 'POST' })
  t.match(login.headers['set-cookie']?.[0], /; Secure/)
})

t.test('server-sent events pass at once, and probes and metrics are not public', { skip: isMissing }, async t => {
  const { app, open, ask } = await start(t)
  const response = await open('/live')
  let text = ''
  response.setEncoding('utf8').on('data', chunk => { text += chunk })
  await until('the browser has the event', async () => {
    await app.events.publish('news', 'hello')
    return text.includes('hello')
  })
  for (const path of ['/health', '/health/ready', '/metrics']) t.equal((await ask(path)).status, 404, path)
  t.equal((await app.inject('/health/ready')).statusCode, 200)
})

t.test('without trustProxy all clients share one limit, and the cookie is not Secure', { skip: isMissing }, async t => {
  const { ask } = await start(t, false)
  t.match(JSON.parse((await ask('/client')).body), { ip: '127.0.0.1', protocol: 'http' })
  const cookie = (await ask('/login/ann', { method: 'POST' })).headers['set-cookie']?.[0]
  t.match(cookie, /^sid=/)
  t.notMatch(cookie, /Secure/)
  for (let i = 0; i < 3; i++) t.equal((await ask('/client')).status, 200)
  t.equal((await ask('/client', { from: '127.0.0.5' })).status, 429)
})

t.test('Cloudflare without nginx: trustProxy names its ranges, and the last address that it added counts', async t => {
  const app = await build({ trustProxy: '173.245.48.0/20,127.0.0.2' })
  t.teardown(() => app.close())
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const ipOf = async (localAddress: string, forwarded: string) => {
    const sent = httpRequest({ port, host: '127.0.0.1', path: '/client', localAddress, agent: false, headers: { 'x-forwarded-for': forwarded } }).end()
    const [response] = await once(sent, 'response') as [IncomingMessage]
    return JSON.parse((await receive(response)).body).ip
  }
  t.equal(await ipOf(CLOUDFLARE, '198.51.100.66, 203.0.113.7'), '203.0.113.7')
  t.equal(await ipOf(CLOUDFLARE, '198.51.100.66, 203.0.113.7, 173.245.48.9'), '203.0.113.7')
  t.equal(await ipOf(CLIENT, '198.51.100.66'), CLIENT)
})
