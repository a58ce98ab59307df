import { randomUUID } from 'node:crypto'
import fp from 'fastify-plugin'
import { systemClock, type Clock } from '../plugins/redis/index.js'

declare module 'fastify' {
  interface FastifyInstance {
    views: Views
  }
  interface EventChannels {
    'views:paused': { until: number }
  }
}

export interface Views {
  /** Counts a view in the background. Never throws. */
  count (productId: number): void
  /** Accepts views, and resolves when they wait to be written. @throws while they are not accepted */
  accept (productIds: readonly number[]): Promise<void>
  /** Makes the database refuse views of all instances for some time. */
  pause (ms: number): Promise<void>
  /** Returns the most viewed products, by the views that are written. */
  top (count: number): Promise<Array<{ productId: number, name: string, views: number }>>
  /** Returns how many views of all instances are not written yet, and how many failed; null if unknown at present. */
  stats (): Promise<{ backlog: number | null, deadLetters: number | null }>
}

// One statement, so a batch is written completely or not at all. Each view has an id, which is stored for longer than a
// batch can be in flight: a batch that is delivered again, for example after a crash, counts no view twice. Sorted, so
// that two batches cannot deadlock.
const WRITE = `
  WITH batch AS (SELECT id, product_id FROM unnest($1::uuid[], $2::int[]) AS b (id, product_id)),
  forgotten AS (DELETE FROM counted_views WHERE counted_at < now() - interval '1 day'),
  counted AS (INSERT INTO counted_views (id) SELECT id FROM batch ORDER BY id ON CONFLICT DO NOTHING RETURNING id)
  INSERT INTO product_views (product_id, views)
  SELECT p.id,
  count(*) FROM batch JOIN counted USING (id) JOIN products p ON p.id = product_id GROUP BY p.id ORDER BY p.id
  ON CONFLICT (product_id) DO UPDATE SET views = product_views.views + excluded.views`

/** How often each instance reports that the database refuses views. */
const REPORT_MS = 2000

/** Counts views of products with write-behind: responses do not wait, and the database receives batches. */
export const views = fp<{ clock?: Clock | undefined }>(async function views (fastify, { clock = systemClock }) {
  const { cache, db, events, live, log } = fastify
  let isRefusing = false
  let pausedUntil = 0
  let refusalAt = -Infinity
  await events.subscribe('views:paused', ({ until }) => { pausedUntil = until }, { confirm: false })

  const writes = cache.writeBehind<string>('views', {
    batch: 500,
    flushEvery: '1s',
    // A failing statement means that the database is unavailable, and never that a view is poison.
    isOutage: () => true,
    backoff: { min: 100, max: '2s' },
    async write (batch) {
      const began = clock.monotonic()
      const isPaused = clock.now() < pausedUntil
      if (!isPaused) await db.query(WRITE, [batch.map(({ value }) => value), batch.map(({ key }) => Number(key))])
      // A refused batch is retried several times a second.
      if (!isPaused || began >= refusalAt + REPORT_MS) {
        live.publish({
          kind: 'batch',
          views: batch.length,
          products: new Set(batch.map(({ key }) => key)).size,
          ms: Math.round(clock.monotonic() - began),
          written: !isPaused
        })
        if (isPaused) refusalAt = began
      }
      if (isPaused) throw new Error('the demo has paused the database')
    }
  })
  // Before the database is closed.
  fastify.addHook('onClose', async () => await writes.flush({ timeout: '2s' }).catch(() => {}))

  fastify.decorate('views', {
    count (productId) {
      writes.add(String(productId), randomUUID()).then(() => {
        if (isRefusing) log.info('views: counting again')
        isRefusing = false
      }, error => {
        if (!isRefusing) {
          log.warn({ reason: error instanceof Error ? error.message : String(error) }, 'views: not counted for now')
        }
        isRefusing = true
      })
    },
    accept: async productIds => { await Promise.all(productIds.map(id => writes.add(String(id), randomUUID()))) },
    async pause (ms) {
      pausedUntil = clock.now() + ms
      await events.publish('views:paused', { until: pausedUntil })
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
}, {
  name: 'demo/views',
  dependencies: ['demo/database', 'demo/live', 'fastify-redis-suite/cache', 'fastify-redis-suite/events']
})
