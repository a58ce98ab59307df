import { request as httpsRequest } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { build } from '../../examples/guides/dashboards.js'
import { openSse } from '../helpers/events/sse-client.js'
import { startRedis, until } from '../helpers/index.js'
import { makeCertificate } from '../helpers/servers/certificate.js'
import { findNginx, startNginx } from '../helpers/servers/nginx.js'

process.env['LOG_LEVEL'] = 'silent'

/** Two instances of the example on one Redis. */
async function start (t: Test) {
  const server = await startRedis()
  process.env['REDIS_URL'] = server.url
  const apps = await Promise.all([build(), build()])
  t.teardown(async () => { await Promise.all(apps.map(app => app.close())) })
  await Promise.all(apps.map(app => app.ready()))
  const [one, two] = apps as [FastifyInstance, FastifyInstance]
  return { server, one, two }
}

const order = async (app: FastifyInstance, item: string) => (await app.inject({ method: 'POST', url: `/orders/${item}` })).statusCode
const snapshotOf = async (app: FastifyInstance) => (await app.inject('/orders')).json<{ orders: Array<{ item: string }>, cursor: string }>()
/** The items, and the cursor of the last event, that a browser has received. */
const itemsOf = (text: string) => [...text.matchAll(/"item":"(.*?)"/g)].map(([, item]) => item)
const lastIdOf = (text: string) => [...text.matchAll(/^id: ?(.*)$/gm)].at(-1)?.[1] ?? ''

t.test('a browser sees each order once, though it changes the instance and orders arrive meanwhile', async t => {
  const { one, two } = await start(t)
  for (const item of ['a', 'b']) await order(one, item)
  await until('the other instance has followed', async () => (await snapshotOf(two)).orders.length === 2)
  const { orders, cursor } = await snapshotOf(two)
  t.same(orders.map(({ item }) => item), ['a', 'b'])
  // An order between the snapshot and the connection, one after it.
  await order(one, 'c')
  const first = await openSse(t, one, `/orders/live?lastEventId=${encodeURIComponent(cursor)}`)
  await order(two, 'd')
  await until('both orders', () => itemsOf(first.text).length === 2)
  t.same(itemsOf(first.text), ['c', 'd'])
  first.hangUp()
  for (const item of ['e', 'f']) await order(one, item)
  // The browser adds Last-Event-ID to the same URL: the header counts.
  const again = await openSse(t, two, `/orders/live?lastEventId=${encodeURIComponent(lastIdOf(first.text))}`)
  await order(one, 'g')
  await until('the missed orders, and the next one', () => itemsOf(again.text).length === 3)
  t.same(itemsOf(again.text), ['e', 'f', 'g'])
})

t.test('Last-Event-ID, which the browser adds when it reconnects, counts before the cursor in the URL', async t => {
  const { one, two } = await start(t)
  for (const item of ['a', 'b', 'c']) await order(one, item)
  await until('the snapshot is complete', async () => (await snapshotOf(one)).orders.length === 3)
  const { cursor } = await snapshotOf(one)
  await order(two, 'd')
  const response = await two.inject({ url: '/orders/live?lastEventId=0', headers: { 'last-event-id': cursor }, payloadAsStream: true })
  let text = ''
  response.stream().on('data', chunk => { text += chunk })
  await until('the order after the header\'s cursor', () => itemsOf(text).length > 0)
  t.same(itemsOf(text), ['d'])
})

t.test('an outage of Redis ends no connection, and no order is missing after it', async t => {
  const { server, one, two } = await start(t)
  const browser = await openSse(t, two, '/orders/live?lastEventId=0')
  await order(one, 'a')
  await until('the first order', () => itemsOf(browser.text).length === 1)
  server.pause()
  await until('orders are refused', async () => await order(one, 'lost') === 503)
  server.resume()
  await until('orders are accepted again', async () => await order(one, 'b') === 201)
  await until('the order after the outage', () => itemsOf(browser.text).includes('b'))
  t.equal(browser.isOver, false)
  // A refused order may have been appended: its reply was late.
  t.same(itemsOf(browser.text).filter(item => item !== 'lost'), ['a', 'b'])
})

t.test('behind nginx with its defaults each event arrives at once', async t => {
  const nginx = findNginx()
  if (nginx === undefined) return t.comment('nginx is not installed')
  const { one, two } = await start(t)
  await one.listen({ port: 0, host: '127.0.0.1' })
  const certificate = await makeCertificate()
  const { origin } = await startNginx(nginx, `http://127.0.0.1:${(one.server.address() as AddressInfo).port}`, certificate)
  let text = ''
  const request = httpsRequest(`${origin}/orders/live?lastEventId=0`, { ca: certificate.cert, checkServerIdentity: () => undefined, headers: { 'accept-encoding': 'gzip' } })
  request.on('response', response => { response.setEncoding('utf8').on('data', (chunk: string) => { text += chunk }) }).on('error', () => {}).end()
  t.teardown(() => request.destroy())
  for (const item of ['a', 'b', 'c']) {
    await order(two, item)
    await until(`order ${item} before the next one`, () => itemsOf(text).includes(item))
  }
  t.same(itemsOf(text), ['a', 'b', 'c'])
})

t.test('the page is served, and closing an instance ends its open responses', async t => {
  const { one } = await start(t)
  t.match((await one.inject('/')).body, /EventSource/)
  const browser = await openSse(t, one, '/orders/live?lastEventId=0')
  await one.close()
  await until('the response has ended', () => browser.isOver)
  t.equal(browser.status, 200)
})
