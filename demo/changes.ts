import { randomUUID } from 'node:crypto'
import fp from 'fastify-plugin'
import { Type } from 'typebox'
import { Compile } from 'typebox/compile'
import type { Query } from './query.js'

declare module 'fastify' {
  interface FastifyInstance {
    changes: Changes
  }
}

export interface Changes {
  /**
   * Runs a transaction that changes one row, whose new value the caller writes to the cache with
   * `fastify.cache.writeThrough`. The notification of the database then invalidates the row's pages (`page:product:1`),
   * but not its value (`product:1`).
   */
  writeRow <T> (row: string, work: (query: Query) => Promise<T>): Promise<T>
}

const Payload = Compile(Type.Object({
  lists: Type.String({ minLength: 1 }),
  rows: Type.Array(Type.String({ minLength: 1 })),
  writer: Type.Union([Type.String(), Type.Null()])
}))

// The tags of all rows, and of all lists of rows.
const ALL_TAGS = ['products', 'product:all', 'orders', 'users', 'user:all']

/**
 * Invalidates cached rows when they change in the database, whichever program changes them: triggers send their tags
 * with NOTIFY.
 *
 * Every instance listens, so each change is invalidated once per instance. This is harmless, needs no leader, and suits
 * caches in the memory of each instance. Routes still invalidate their own changes before they respond: a notification
 * arrives some milliseconds after the commit.
 */
export const changes = fp(async function changes (fastify) {
  const { cache, db } = fastify
  // Instances that share a Redis share a cache.
  const writer = fastify.hasDecorator('redis') ? 'redis' : randomUUID()

  function invalidate (tags: readonly string[]): void {
    // If the cache is unavailable, the invalidation is pending, and repeated until it succeeds.
    cache.invalidateTags(tags).catch(() => {})
  }

  function tagsOf (payload: string): string[] {
    const change = parse(payload)
    // A message of another form may stand for any change.
    if (!Payload.Check(change)) return ALL_TAGS
    return [change.lists, ...change.writer === writer ? change.rows.map(row => `page:${row}`) : change.rows]
  }

  fastify.decorate('changes', {
    async writeRow (row, work) {
      try {
        return await db.transaction(async query => {
          await query("SELECT set_config('demo.writer', $1, true)", [writer])
          return await work(query)
        })
      } catch (error) {
        // If the reply was lost, the transaction may have been committed.
        invalidate([row])
        throw error
      }
    }
  })
  // Changes before listening started are unknown: everything is invalidated.
  await db.listen('changes', payload => invalidate(tagsOf(payload)), () => invalidate(ALL_TAGS))
}, { name: 'demo/changes', dependencies: ['demo/database', 'fastify-redis-suite/cache'] })

function parse (payload: string): unknown {
  try {
    return JSON.parse(payload)
  } catch {
    return undefined
  }
}
