import { createHash } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import fp from 'fastify-plugin'
import pg from 'pg'
import { openEmbedded } from './embedded.js'
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
  /** Keeps what there is now for the next start, where that is to be done. */
  keep? (): Promise<void>
  close (): Promise<void>
}

export interface DatabaseOptions {
  url: string | undefined
  snapshot?: string | undefined
  /** An open database in place of one of the plugin's own; the caller closes it. */
  db?: Database | undefined
}

/**
 * The demo's PostgreSQL: a real one by `url`, else one that is embedded in this process and lives in its memory. What that
 * has at its start is made once if there is a `snapshot`, a file to keep it in.
 */
export const database = fp<DatabaseOptions>(async function database (fastify, { url, snapshot, db: given }) {
  if (given !== undefined) {
    const lent = await lend(given)
    fastify.addHook('onClose', async () => await lent.close())
    fastify.decorate('db', lent)
    return
  }
  const db = url === undefined ? await openEmbedded(snapshot) : openServer(url, fastify.log)
  fastify.addHook('onClose', async () => await db.close())
  const progress = setTimeout(() => fastify.log.info('database: making tables and filling them, as this is the first start'), 1000)
  try {
    const areMade = await db.transaction(makeTables)
    if (areMade) await db.keep?.()
  } finally {
    clearTimeout(progress)
  }
  fastify.decorate('db', db)
}, { name: 'demo/database' })

/** A view of a database of another owner, with tables; closing it ends what it listens to, and nothing else. */
async function lend (db: Database): Promise<Database> {
  const areMade = await db.transaction(makeTables)
  if (areMade) await db.keep?.()
  let isClosed = false
  return {
    ...db,
    listen: async (channel, onMessage, onStart) => await db.listen(channel, payload => { if (!isClosed) onMessage(payload) }, onStart),
    close: async () => { isClosed = true }
  }
}

/** @returns whether they had to be made */
async function makeTables (query: Query): Promise<boolean> {
  // Of several instances that start at once, one makes the tables; the others wait for it.
  await query('SELECT pg_advisory_xact_lock(814920)')
  // And none touches what is there already: that would lock the tables of a shop that is running.
  await query('CREATE TABLE IF NOT EXISTS applied_schema (digest text PRIMARY KEY)')
  const digest = createHash('sha256').update([...schemaSql, ...triggerSql].join(';')).digest('hex')
  const [present] = await query('SELECT 1 AS one FROM applied_schema WHERE digest = $1', [digest])
  if (present !== undefined) return false
  for (const statement of schemaSql) await query(statement)
  await seed(query)
  // After the seed, which is no change to tell of.
  for (const statement of triggerSql) await query(statement)
  await query('INSERT INTO applied_schema VALUES ($1)', [digest])
  return true
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
