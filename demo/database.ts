import { createHash } from 'node:crypto'
import { PGlite } from '@electric-sql/pglite'
import type { FastifyBaseLogger } from 'fastify'
import fp from 'fastify-plugin'
import pg from 'pg'
import { openListener } from './listener.js'
import type { Query, Row } from './query.js'
import { schemaSql, triggerSql } from './schema.js'
import { seed } from './seed.js'

declare module 'fastify' {
  interface FastifyInstance {
    db: Database
  }
}

export interface Database {
  query: Query
  /** Runs `work` in one transaction: all of it holds, or none. */
  transaction <T> (work: (query: Query) => Promise<T>): Promise<T>
  /**
   * Tells of each NOTIFY on the channel, whoever said it.
   *
   * @param onStart - each time it begins to listen, so also after a connection was lost: what was said before has been missed
   */
  listen (channel: string, onMessage: (payload: string) => void, onStart: () => void): Promise<void>
  close (): Promise<void>
}

/** The demo's PostgreSQL: a real one by `url`, else one that is embedded in this process and lives in its memory. */
export const database = fp<{ url: string | undefined }>(async function database (fastify, { url }) {
  const db = url === undefined ? openEmbedded() : openServer(url, fastify.log)
  fastify.addHook('onClose', async () => await db.close())
  const progress = setTimeout(() => fastify.log.info('database: making tables and filling them, as this is the first start'), 1000)
  try {
    await db.transaction(makeTables)
  } finally {
    clearTimeout(progress)
  }
  fastify.decorate('db', db)
}, { name: 'demo/database' })

async function makeTables (query: Query): Promise<void> {
  // Of several instances that start at once, one makes the tables; the others wait for it.
  await query('SELECT pg_advisory_xact_lock(814920)')
  // And none touches what is there already: that would lock the tables of a shop that is running.
  await query('CREATE TABLE IF NOT EXISTS applied_schema (digest text PRIMARY KEY)')
  const digest = createHash('sha256').update([...schemaSql, ...triggerSql].join(';')).digest('hex')
  const [present] = await query('SELECT 1 AS one FROM applied_schema WHERE digest = $1', [digest])
  if (present !== undefined) return
  for (const statement of schemaSql) await query(statement)
  await seed(query)
  // After the seed, which is no change to tell of.
  for (const statement of triggerSql) await query(statement)
  await query('INSERT INTO applied_schema VALUES ($1)', [digest])
}

function openEmbedded (): Database {
  const client = new PGlite()
  return {
    query: async <T extends Row>(sql: string, params: unknown[] = []) => (await client.query<T>(sql, params)).rows,
    transaction: async work => await client.transaction(async tx =>
      await work(async <T extends Row>(sql: string, params: unknown[] = []) => (await tx.query<T>(sql, params)).rows)),
    async listen (channel, onMessage, onStart) {
      await client.listen(channel, onMessage)
      onStart()
    },
    close: async () => await client.close()
  }
}

function openServer (connectionString: string, log: FastifyBaseLogger): Database {
  const closeListeners: Array<() => Promise<void>> = []
  const pool = new pg.Pool({ connectionString, connectionTimeoutMillis: 5000 })
  // A connection that breaks while idle is replaced; without a listener it would end the process.
  pool.on('error', () => {})
  return {
    query: async <T extends Row>(sql: string, params: unknown[] = []) => (await pool.query<T>(sql, params)).rows,
    async transaction (work) {
      const client = await pool.connect()
      try {
        await client.query('BEGIN')
        const result = await work(async <T extends Row>(sql: string, params: unknown[] = []) => (await client.query<T>(sql, params)).rows)
        await client.query('COMMIT')
        return result
      } catch (error) {
        await client.query('ROLLBACK').catch(() => {})
        throw error
      } finally {
        client.release()
      }
    },
    async listen (channel, onMessage, onStart) {
      closeListeners.push(await openListener({ connectionString, channel, onMessage, onStart, log }))
    },
    async close () {
      await Promise.all(closeListeners.map(close => close()))
      await pool.end()
    }
  }
}
