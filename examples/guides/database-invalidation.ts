// A cache that PostgreSQL invalidates, whichever program changes a row. Run it with
// `DATABASE_URL=postgres://localhost/shop npx tsx examples/guides/database-invalidation.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import pg from 'pg'
import { cache, redis } from '../../plugins/index.js'

export async function build (
  { databaseUrl = process.env['DATABASE_URL'], poll = 5000 }: { databaseUrl?: string | undefined, poll?: number } = {}
) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'outbox' })
  await app.register(cache, { ttl: '1h' })
  const pool = new pg.Pool({ connectionString: databaseUrl })
  pool.on('error', () => {}) // an idle connection broke: the pool replaces it

  /** Takes up to 100 changes, and deletes them once the cache is invalidated. Several instances take different ones. */
  async function takeChanges (): Promise<boolean> {
    const client = await pool.connect()
    try {
      await client.query('BEGIN')
      const { rows } = await client.query<{ tags: string[] }>(
        'DELETE FROM cache_outbox WHERE id IN (SELECT id FROM cache_outbox ORDER BY id LIMIT 100 FOR UPDATE SKIP ' +
        'LOCKED) RETURNING tags')
      if (rows.length > 0) await app.cache.invalidateTags([...new Set(rows.flatMap(({ tags }) => tags))])
      await client.query('COMMIT')
      return rows.length > 0
    } catch (error) {
      await client.query('ROLLBACK').catch(() => {})
      throw error
    } finally {
      client.release()
    }
  }

  let running = Promise.resolve()
  let isQueued = false
  /** Takes all changes. A call during a run is followed by one more run. */
  function wake (): void {
    if (isQueued) return
    isQueued = true
    running = running.then(async () => {
      isQueued = false
      while (await takeChanges());
    }).catch((error: Error) => {
      app.log.warn({ reason: error.message }, 'outbox: changes stay in the table until the next attempt')
    })
  }

  // NOTIFY wakes an instance within milliseconds, and the timer where a notification was lost.
  let listener: pg.Client | undefined
  async function listen (): Promise<void> {
    const client = listener = new pg.Client({ connectionString: databaseUrl, keepAlive: true })
    client.on('error', () => {}).on('end', () => { listener = undefined }).on('notification', wake)
    await client.connect()
    await client.query('LISTEN cache_outbox')
  }
  const tick = (): void => {
    if (listener === undefined) listen().catch(() => { listener = undefined })
    wake()
  }
  tick()
  const timer = setInterval(tick, poll)
  app.addHook('onClose', async () => {
    clearInterval(timer)
    await listener?.end()
    await running
    await pool.end()
  })

  app.get(
    '/products', { config: { cache: { tags: ['products'] } } },
    async () => (await pool.query('SELECT id, name FROM products ORDER BY id LIMIT 100')).rows
  )
  app.get<{ Params: { id: string } }>('/products/:id', {
    config: { cache: { tags: ({ params: { id } }) => [`product:${id}`, 'product:all'] } }
  }, async ({ params: { id } }, reply) => {
    const { rows: [product] } = await pool.query('SELECT id, name FROM products WHERE id = $1', [id])
    return product ?? await reply.code(404).send({ error: 'no such product' })
  })
  // The route invalidates as well, so that the next request of this client sees the change.
  app.put<{ Params: { id: string }, Body: { name: string } }>('/products/:id', {
    config: { cache: { invalidates: ({ params: { id } }) => [`product:${id}`, 'products'] } }
  }, async ({ params: { id }, body: { name } }) => {
    await pool.query('UPDATE products SET name = $2 WHERE id = $1', [id, name])
    return { id, name }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
