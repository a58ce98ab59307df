// Stands for the service of another company, such as a payment or a mail provider, so that the guides
// run without an account. It does each POST once per `Idempotency-Key`. Run it with
// `npx tsx examples/guides/stand-in.ts`; `GET /` lists what it did.
import { randomUUID } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'

export interface StandInOptions {
  /** For tests: returns the status of a refusal. `attempt` counts the requests with this key from 1. */
  refuse?: (body: unknown, attempt: number) => number | undefined
  /** For tests: delays the response to a request that has taken effect. */
  delay?: (body: unknown, attempt: number) => Promise<void> | undefined
}

export async function build ({ refuse, delay }: StandInOptions = {}) {
  const logger = { level: process.env['LOG_LEVEL'] ?? 'info' }
  const app = Fastify({ logger, forceCloseConnections: true })
  const done = new Map<string, { id: string, path: string, key: string, body: unknown }>()
  const attempts = new Map<string, number>()

  app.post('/*', async (request, reply) => {
    const key = String(request.headers['idempotency-key'] ?? randomUUID())
    const attempt = (attempts.get(key) ?? 0) + 1
    attempts.set(key, attempt)
    const refusal = refuse?.(request.body, attempt)
    if (refusal !== undefined) return await reply.code(refusal).send({ error: 'refused' })
    const { url: path, body } = request
    const result = done.get(key) ?? { id: `${done.size + 1}`, path, key, body }
    done.set(key, result)
    await delay?.(request.body, attempt)
    return await reply.code(201).send({ id: result.id })
  })
  app.get('/', async () => {
    const requests = [...attempts.values()].reduce((sum, count) => sum + count, 0)
    return { requests, done: [...done.values()] }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 8000) })
}
