import fp from 'fastify-plugin'
import { systemClock, type Clock } from '../plugins/redis/index.js'
import { sleep } from './sleep.js'

declare module 'fastify' {
  interface FastifyInstance {
    document: Document
  }
}

export type Worker = 'A' | 'B'

export interface EditOptions {
  /** Whether the worker waits for the lock; otherwise it fails at once if another one holds it. */
  wait: boolean
  /** Whether the worker pauses for longer than its lock lasts, as a stopped process does. */
  stall: boolean
}

export interface Edit {
  /** The fencing token of the lock. */
  token: number
  waitedMs: number
  /** Whether the document accepted the write; false if a worker with a higher token has written since. */
  written: boolean
}

export interface Document {
  /**
   * Edits the document under its lock.
   *
   * @throws `FST_REDIS_SUITE_LOCK_LOCKED` (423), `FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE` (503)
   */
  edit (worker: Worker, options: EditOptions): Promise<Edit>
}

const EDIT_MS = 1500
const STALL_MS = 4000
/** A stalled worker does not extend its lock, which therefore expires after this time. */
const LOCK_MS = 1000

/**
 * A document that one worker at a time edits, across all instances; it refuses the write of a worker that lost the
 * lock.
 */
export const document = fp<{ clock?: Clock | undefined }>(async function document (fastify, { clock = systemClock }) {
  const { db, live, locks } = fastify
  let last = 0

  fastify.decorate('document', {
    async edit (worker, { wait, stall }) {
      const edit = `${live.instance}-${++last}`
      const report = (what: 'waiting' | 'acquired' | 'written' | 'refused' | 'failed', token?: number) =>
        live.publish({ kind: 'lock', edit, worker, what, ...token !== undefined && { token } })
      const began = clock.monotonic()
      report('waiting')
      try {
        const lock = await locks.acquire('document', { ttl: LOCK_MS, wait: wait ? '10s' : 0, extend: !stall })
        const waitedMs = Math.round(clock.monotonic() - began)
        try {
          report('acquired', lock.token)
          await sleep(clock, stall ? STALL_MS : EDIT_MS)
          // The comparison is the protection: a stalled process cannot know that it has lost its lock.
          const rows = await db.query(
            'UPDATE document SET fence = $1, writer = $2 WHERE id = 1 AND fence <= $1 RETURNING id',
            [lock.token, worker]
          )
          report(rows.length > 0 ? 'written' : 'refused', lock.token)
          return { token: lock.token, waitedMs, written: rows.length > 0 }
        } finally {
          await lock[Symbol.asyncDispose]()
        }
      } catch (error) {
        report('failed')
        throw error
      }
    }
  })
}, { name: 'demo/document', dependencies: ['demo/database', 'demo/live', 'fastify-redis-suite/lock'] })
