// One invoice at a time across all instances, and a fencing token that refuses a holder whose lock has expired. Run it
// with `npx tsx examples/lock.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { lock, redis } from '../plugins/index.js'

interface Invoice { number: number, fence: number }

/** Stands for a table: `UPDATE invoices SET number = $2, fence = $3 WHERE id = $1 AND fence < $3`. */
const table = new Map<string, Invoice>()

function update (id: string, { number, fence }: Invoice): boolean {
  if (fence <= (table.get(id)?.fence ?? 0)) return false
  table.set(id, { number, fence })
  return true
}

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(lock, { ttl: '5s', wait: '2s' })

  app.post<{ Params: { id: string } }>('/invoices/:id', async (request, reply) => {
    const { id } = request.params
    return await app.locks.using(`invoice:${id}`, async (signal, { token }) => {
      const number = (table.get(id)?.number ?? 0) + 1
      await print(number, signal)
      if (!update(id, { number, fence: token })) {
        return await reply.code(409).send({ error: 'another request has written it since' })
      }
      return { id, number }
    })
  })
  // With `wait: 0`, a request for a lock that is held receives 423 at once.
  app.post('/report', async () => await app.locks.using('report', { wait: 0 }, () => ({ report: 'made' })))

  return app
}

async function print (_number: number, signal: AbortSignal): Promise<void> {
  await new Promise(resolve => setTimeout(resolve, 20))
  signal.throwIfAborted()
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
