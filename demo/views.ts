import { randomUUID } from 'node:crypto'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    views: Views
  }
}

export interface Views {
  /** Counts a view, some time; nobody waits for it, and it never fails. */
  count (productId: number): void
  /** The most viewed products, as far as views are written. */
  top (count: number): Promise<Array<{ productId: number, name: string, views: number }>>
  /** How many views wait to be written, of all instances, and how many could not be; null where that is not known now. */
  stats (): Promise<{ backlog: number | null, deadLetters: number | null }>
}

// One statement for a batch, so all of it holds or nothing. A batch that is given again, as after a crash, finds which of its
// views are counted: each has an id, which is kept for longer than a batch may be on its way. Sorted, so that two batches
// cannot wait for each other.
const WRITE = `
  WITH batch AS (SELECT id, product_id FROM unnest($1::uuid[], $2::int[]) AS b (id, product_id)),
  forgotten AS (DELETE FROM counted_views WHERE counted_at < now() - interval '1 day'),
  counted AS (INSERT INTO counted_views (id) SELECT id FROM batch ORDER BY id ON CONFLICT DO NOTHING RETURNING id)
  INSERT INTO product_views (product_id, views)
  SELECT p.id, count(*) FROM batch JOIN counted USING (id) JOIN products p ON p.id = product_id GROUP BY p.id ORDER BY p.id
  ON CONFLICT (product_id) DO UPDATE SET views = product_views.views + excluded.views`

/** Views of products, counted behind the answers and written in batches. */
export const views = fp(async function views (fastify) {
  const { cache, db, log } = fastify
  let isRefusing = false

  const writes = cache.writeBehind<string>('views', {
    batch: 500,
    flushEvery: '1s',
    // No view is to blame where the statement fails: all wait for the database.
    isOutage: () => true,
    write: async batch => { await db.query(WRITE, [batch.map(({ value }) => value), batch.map(({ key }) => Number(key))]) }
  })
  // While the database is still open.
  fastify.addHook('onClose', async () => await writes.flush({ timeout: '2s' }).catch(() => {}))

  fastify.decorate('views', {
    count (productId) {
      writes.add(String(productId), randomUUID()).then(() => {
        if (isRefusing) log.info('views: counted again')
        isRefusing = false
      }, error => {
        if (!isRefusing) log.warn({ reason: error instanceof Error ? error.message : String(error) }, 'views: not counted for now')
        isRefusing = true
      })
    },
    top: async count => await db.query<{ productId: number, name: string, views: number }>(
      `SELECT product_id AS "productId", name, views::float8 FROM product_views JOIN products ON id = product_id
       ORDER BY views DESC, product_id LIMIT $1`, [count]),
    async stats () {
      try {
        const { backlog, deadLetters } = await writes.stats()
        return { backlog, deadLetters }
      } catch {
        return { backlog: null, deadLetters: null }
      }
    }
  })
}, { name: 'demo/views', dependencies: ['demo/database', 'fastify-redis-suite/cache'] })
