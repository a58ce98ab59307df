import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { interceptCommands } from '../helpers/redis/intercept-commands.js'
import { completeScript } from '../../plugins/idempotency/scripts.js'
import { createTestApp } from '../helpers/index.js'
import { heapInUse } from '../helpers/timing/heap.js'

const REQUESTS = 3000
const BODY_BYTES = 200
// A pending response counts 1 KiB for its key and its entry.
const COUNTED = 1024 + BODY_BYTES

/** The memory in use after garbage collection. */
async function memoryInUse (): Promise<number> {
  for (let round = 0; round < 5; round++) {
    heapInUse()
    await sleep(5)
  }
  const heap = heapInUse()
  const { external } = process.memoryUsage()
  return heap + external
}

/** An app whose Redis rejects all responses. */
async function appWithPendingWrites (t: Parameters<typeof createTestApp>[0]): Promise<{ app: FastifyInstance, requests: Array<WeakRef<object>> }> {
  const requests: Array<WeakRef<object>> = []
  // As `@fastify/request-context` does: a timer that a request starts holds the request in memory.
  const context = new AsyncLocalStorage<object>()
  const { app } = await createTestApp(t, {
    store: 'redis',
    server: { logger: false, loggerInstance: undefined } as never,
    plugins: { idempotency: { scope: () => 'one' } },
    before: app => app.addHook('onRequest', (request, _reply, done) => {
      requests.push(new WeakRef(request))
      context.run(request, done)
    }),
    routes: app => app.post('/', { config: { idempotency: true } }, async (request, reply) => {
      reply.header('location', `/orders/${(request.body as string).slice(10, 40)}`)
      return (request.body as string).slice(0, BODY_BYTES)
    })
  })
  interceptCommands(app, async (_name, [digest], send) => digest === completeScript.sha1 ? await Promise.reject(new Error('READONLY')) : await send())
  return { app, requests }
}

t.test('pending responses take about as much memory as is counted, and hold neither request nor reply', async t => {
  const { app, requests } = await appWithPendingWrites(t)
  const post = async (key: number): Promise<void> => {
    const payload = 'a'.repeat(20_000)
    await app.inject({ method: 'POST', url: '/', headers: { 'idempotency-key': `k${key}`, 'content-type': 'text/plain' }, payload })
  }
  for (let i = 0; i < 200; i++) await post(i)
  requests.length = 0
  const before = await memoryInUse()
  for (let i = 200; i < 200 + REQUESTS; i++) await post(i)
  const each = (await memoryInUse() - before) / REQUESTS
  const alive = requests.filter(request => request.deref() !== undefined).length
  t.ok(alive < 10, `${alive} of ${REQUESTS} requests are held`)
  t.ok(each < 1.5 * COUNTED, `${Math.round(each)} bytes each, counted as ${COUNTED}`)
})
