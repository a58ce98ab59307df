import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { HealthPluginOptions } from '../../plugins/health/index.js'
import type { MetricsPluginOptions } from '../../plugins/metrics/index.js'
import { createTestApp } from '../helpers/index.js'

// One rule for what an operator reads: the metrics, and the details of health.

type Audience = MetricsPluginOptions['expose'] & HealthPluginOptions['details']

interface Caller { remoteAddress?: string, headers?: Record<string, string> }

async function build (t: Test, audience: Audience | undefined, server: FastifyServerOptions = {}) {
  const { app, lines } = await createTestApp(t, { server, plugins: { metrics: { expose: audience }, health: { details: audience } } })
  const sees = async (caller: Caller = {}) => {
    const metrics = await app.inject({ url: '/metrics', ...caller })
    const health = await app.inject({ url: '/health', ...caller })
    t.equal(health.statusCode, 200, 'the status itself is for everyone')
    t.match(metrics.statusCode === 200 ? { metrics: metrics.body } : metrics.json(), metrics.statusCode === 200 ? { metrics: /http_request_duration/ } : { statusCode: 404, message: 'Route GET:/metrics not found' })
    t.equal('checks' in health.json(), metrics.statusCode === 200, 'one rule for both')
    return metrics.statusCode === 200
  }
  return { app, lines, sees }
}

const FORWARDING = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-port', 'x-forwarded', 'x-real-ip', 'via', 'x-client-ip', 'client-ip',
  'true-client-ip', 'x-cluster-client-ip', 'cf-connecting-ip', 'fastly-client-ip', 'x-original-forwarded-for', 'x-envoy-external-address', 'x-azure-clientip', 'cdn-loop',
  'x-appengine-user-ip', 'wl-proxy-client-ip', 'x-amzn-trace-id']

t.test('by default /metrics and the details of health are shown to this machine alone, by its socket', async t => {
  const { sees } = await build(t, undefined)
  for (const remoteAddress of ['127.0.0.1', '::1', '::ffff:127.0.0.1']) t.equal(await sees({ remoteAddress }), true, remoteAddress)
  for (const remoteAddress of ['127.0.0.6', '10.0.0.1', '192.168.1.5', '172.17.0.1', '169.254.1.1', '128.0.0.1', '::ffff:10.0.0.1', '2001:db8::1', 'fe80::1', '::', '0.0.0.0']) t.equal(await sees({ remoteAddress }), false, remoteAddress)
})

t.test('by default a request that a proxy on this machine passed on is not of this machine, with or without trustProxy', async t => {
  for (const trustProxy of [false, true, '127.0.0.1', () => true]) {
    const { sees } = await build(t, undefined, { trustProxy })
    t.equal(await sees(), true, 'without a proxy')
    for (const name of FORWARDING) t.equal(await sees({ headers: { [name]: '127.0.0.1' } }), false, `${String(trustProxy)} ${name}`)
    t.equal(await sees({ headers: { 'x-forwarded-for': '' } }), false, 'an empty one')
    t.equal(await sees({ headers: { 'user-agent': 'curl', accept: '*/*', 'x-request-id': '1', traceparent: '00-1-1-01', authorization: 'Bearer a', cookie: 'a=b', origin: 'http://localhost' } }), true, 'a client\'s own headers')
  }
})

t.test('by default a request for another host name is not of this machine, whoever passed it on', async t => {
  const { sees } = await build(t, undefined)
  for (const host of ['localhost', 'localhost:3000', 'LOCALHOST', 'shop.localhost:80', '127.0.0.1:3000', '[::1]:3000', '[::1]']) t.equal(await sees({ headers: { host } }), true, host)
  for (const host of ['shop.example', 'localhost.shop.example', '127.0.0.1.nip.io:3000', '10.0.0.1', '[2001:db8::1]']) t.equal(await sees({ headers: { host } }), false, host)
})

t.test('an option opens them: to all, to none, or to the requests that a function allows', async t => {
  const callers: Caller[] = [{}, { remoteAddress: '10.0.0.1' }, { headers: { 'x-forwarded-for': '192.0.2.1' } }, { headers: { authorization: 'Bearer secret' } }]
  const table: Array<[string, Audience, boolean[]]> = [
    ['true', true, [true, true, true, true]],
    ['false', false, [false, false, false, false]],
    ['loopback', 'loopback', [true, false, false, true]],
    ['a function', request => request.headers.authorization === 'Bearer secret', [false, false, false, true]],
    ['an async function', async request => request.ip === '10.0.0.1', [false, true, false, false]]
  ]
  for (const [what, audience, expected] of table) {
    const { sees } = await build(t, audience)
    const seen = []
    for (const caller of callers) seen.push(await sees(caller))
    t.same(seen, expected, what)
  }
})

t.test('a function that throws or rejects shows nothing, fails no readiness probe, and is logged once', async t => {
  const wrong: Audience[] = [() => { throw new Error('no key') }, async () => { throw new Error('no key') }]
  for (const audience of wrong) {
    const { app, lines, sees } = await build(t, audience)
    for (let i = 0; i < 3; i++) t.equal(await sees(), false)
    t.equal((await app.inject('/health/ready')).statusCode, 200)
    for (const plugin of ['metrics', 'health']) t.equal(lines.filter(line => line['plugin'] === plugin && line['level'] === 50 && line['reason'] === 'no key').length, 1)
  }
})

t.test('a scrape that is refused by default is logged once, with what to do', async t => {
  const { lines, sees } = await build(t, undefined)
  const warned = () => lines.filter(({ msg, level }) => level === 40 && /metrics: .*"expose"/.test(String(msg)))
  await sees()
  t.equal(warned().length, 0)
  for (let i = 0; i < 3; i++) await sees({ remoteAddress: '10.0.0.1' })
  t.match(warned(), [{ plugin: 'metrics', address: '10.0.0.1' }])
  t.equal(warned().length, 1)
  const chosen = await build(t, 'loopback')
  await chosen.sees({ remoteAddress: '10.0.0.1' })
  t.same(chosen.lines.filter(({ msg }) => /"expose"/.test(String(msg))), [], 'not where the option is given')
})

t.test('over TCP, a client on this machine reads them, and the same client through a proxy does not', async t => {
  const { app } = await build(t, undefined)
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  const asked = async (headers: Record<string, string> = {}) => {
    const metrics = await fetch(`${address}/metrics`, { headers })
    const health = await (await fetch(`${address}/health`, { headers })).json() as object
    return [metrics.status, 'checks' in health]
  }
  t.same(await asked(), [200, true])
  t.same(await asked({ 'X-Forwarded-For': '127.0.0.1' }), [404, false])
  t.same(await asked({ Via: '1.1 caddy' }), [404, false])
})

t.test('nginx with no more than proxy_pass, so by HTTP/1.0 and with the address of the app as Host, is no client of this machine', async t => {
  const { app } = await build(t, undefined)
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
  const asked = async (version: string) => {
    const socket = connect(Number(port), '127.0.0.1')
    socket.write(`GET /metrics HTTP/${version}\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`)
    return (await text(socket)).slice(9, 12)
  }
  t.same([await asked('1.0'), await asked('1.1')], ['404', '200'])
})
