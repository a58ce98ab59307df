import { setTimeout as sleep } from 'node:timers/promises'
import fp from 'fastify-plugin'

// What shows all that the database feeds, one by one and in lists.
const ALL = ['products', 'product:all', 'orders', 'users', 'user:all']
const MOST_PENDING = 1000
const RETRY_MS = 500

/**
 * Clears what shows rows that were changed, by whomever: the triggers of the database tell the tags.
 *
 * Each instance listens, so a change is cleared once an instance. That does no harm, needs nobody to be elected, and is
 * what caches in the instances' own memory want. Routes still clear what they change themselves, before they answer: this
 * comes some milliseconds after the commit.
 */
export const changes = fp(async function changes (fastify) {
  const { cache, db, log } = fastify
  const pending = new Set<string>()
  const closing = new AbortController()
  let working: Promise<void> | undefined

  function clear (tags: readonly string[]): void {
    for (const tag of tags) pending.add(tag)
    if (pending.size > MOST_PENDING) {
      pending.clear()
      for (const tag of ALL) pending.add(tag)
    }
    if (pending.size > 0) working ??= work()
  }

  /** Until all is cleared: the cache may be out of reach, and the database does not say it twice. */
  async function work (): Promise<void> {
    let isFailing = false
    while (pending.size > 0 && !closing.signal.aborted) {
      const tags = [...pending]
      pending.clear()
      try {
        await cache.invalidateTags(tags)
      } catch (error) {
        for (const tag of tags) pending.add(tag)
        if (!isFailing) log.warn({ reason: error instanceof Error ? error.message : String(error) }, 'changes: not cleared yet; tried again')
        isFailing = true
        await sleep(RETRY_MS, undefined, { signal: closing.signal, ref: false }).catch(() => {})
      }
    }
    if (isFailing && pending.size === 0) log.info('changes: cleared')
    working = undefined
  }

  fastify.addHook('onClose', async () => {
    closing.abort()
    await working
  })
  // What changed while nobody listened is not known: then all goes.
  await db.listen('changes', payload => clear(readTags(payload) ?? ALL), () => clear(ALL))
}, { name: 'demo/changes', dependencies: ['demo/database', 'fastify-redis-suite/cache'] })

function readTags (payload: string): string[] | undefined {
  try {
    const tags: unknown = JSON.parse(payload)
    return Array.isArray(tags) && tags.every(tag => typeof tag === 'string' && tag !== '') ? tags : undefined
  } catch {
    return undefined
  }
}
