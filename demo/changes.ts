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
   * A transaction that changes one row, of somebody who writes its value into the cache by `fastify.cache.writeThrough`:
   * when the database tells of it, the pages of the row are cleared (`page:product:1`), and not the value (`product:1`).
   */
  writingThrough <T> (row: string, work: (query: Query) => Promise<T>): Promise<T>
}

const Payload = Compile(Type.Object({
  lists: Type.String({ minLength: 1 }),
  rows: Type.Array(Type.String({ minLength: 1 })),
  writer: Type.Union([Type.String(), Type.Null()])
}))

// What shows all that the database feeds, one by one and in lists.
const ALL = ['products', 'product:all', 'orders', 'users', 'user:all']

/**
 * Clears what shows rows that were changed, by whomever: triggers of the database tell their tags.
 *
 * Each instance listens, so a change is cleared once an instance. That does no harm, needs nobody to be elected, and is
 * what caches in the instances' own memory want. Routes still clear what they change themselves, before they answer: this
 * comes some milliseconds after the commit.
 */
export const changes = fp(async function changes (fastify) {
  const { cache, db } = fastify
  // Instances on one Redis have one cache.
  const me = fastify.hasDecorator('redis') ? 'redis' : randomUUID()

  function clear (tags: readonly string[]): void {
    // What cannot be cleared now is, and said to be, once the cache is reached.
    cache.invalidateTags(tags).catch(() => {})
  }

  function read (payload: string): string[] {
    const change = parse(payload)
    // Of a message of somebody else's no more is known than that there was something.
    if (!Payload.Check(change)) return ALL
    return [change.lists, ...change.writer === me ? change.rows.map(row => `page:${row}`) : change.rows]
  }

  fastify.decorate('changes', {
    async writingThrough (row, work) {
      try {
        return await db.transaction(async query => {
          await query("SELECT set_config('demo.writer', $1, true)", [me])
          return await work(query)
        })
      } catch (error) {
        // It may have been committed all the same, where the answer was lost.
        clear([row])
        throw error
      }
    }
  })
  // What changed while nobody listened is not known: then all goes.
  await db.listen('changes', payload => clear(read(payload)), () => clear(ALL))
}, { name: 'demo/changes', dependencies: ['demo/database', 'fastify-redis-suite/cache'] })

function parse (payload: string): unknown {
  try {
    return JSON.parse(payload)
  } catch {
    return undefined
  }
}
