// A live dashboard of orders: every browser sees every order once, whichever instance it is connected
// to. Run it twice with one REDIS_URL, with `PORT=3000 npx tsx examples/guides/dashboards.ts`, and open
// both; then `curl -X POST localhost:3000/orders/teapot`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { events, redis } from '../../plugins/index.js'

interface Order {
  item: string
  at: string
}

/** How many orders the page shows at first. */
const LATEST = 20

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'dashboard' })
  await app.register(events)
  const orders = app.events.stream<Order>('orders', { maxLength: 1000, maxAge: '1 day' })

  app.post<{ Params: { item: string } }>('/orders/:item', async (request, reply) => {
    const id = await orders.append({ item: request.params.item, at: new Date().toISOString() })
    return await reply.code(201).send({ id })
  })

  // Each instance follows the stream, so that the first view costs no query. The cursor is valid on
  // all instances.
  let snapshot: { orders: Order[], cursor: string } = { orders: [], cursor: '0' }
  async function follow (): Promise<void> {
    for await (const { id, data } of orders.read({ after: '0' })) {
      snapshot = { orders: [...snapshot.orders.slice(1 - LATEST), data], cursor: id }
    }
  }
  app.addHook('onReady', async () => {
    follow().catch(error => app.log.error(error, 'the dashboard no longer follows the orders'))
  })

  app.get('/orders', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
    return snapshot
  })
  // From the event after `Last-Event-ID`, or after `?lastEventId=` of the first request.
  app.get('/orders/live', async (request, reply) =>
    await app.events.sse(request, reply, orders, { retry: '1s', heartbeat: '15s' }))
  app.get('/', async (_request, reply) => reply.type('text/html').send(PAGE))
  return app
}

const PAGE = `<!doctype html>
<title>Orders</title>
<ol id="orders"></ol>
<script type="module">
  const list = document.querySelector('#orders')
  function show ({ item, at }) {
    list.prepend(Object.assign(document.createElement('li'), { textContent: at + ' ' + item }))
  }
  const { orders, cursor } = await (await fetch('/orders')).json()
  orders.forEach(show)
  let last = cursor
  function connect () {
    const live = new EventSource('/orders/live?lastEventId=' + encodeURIComponent(last))
    live.addEventListener('message', ({ data, lastEventId }) => {
      last = lastEventId
      show(JSON.parse(data))
    })
    live.addEventListener('gap', () => location.reload())
    // The browser reconnects by itself after a lost connection, but gives up after an error response,
    // such as a proxy's 502 during a deploy.
    live.addEventListener('error', () => {
      if (live.readyState === EventSource.CLOSED) setTimeout(connect, 2000)
    })
  }
  connect()
</script>
`

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
