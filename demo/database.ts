import { createHash } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import fp from 'fastify-plugin'
import pg from 'pg'
import { openEmbedded } from './embedded.js'
import { openListener } from './listener.js'
import { withProgress, type Report } from './progress.js'
import type { Query, Row, Database } from './query.js'
import { schemaSql, triggerSql } from './schema.js'
import { seed } from './seed.js'

declare module 'fastify' {
  interface FastifyInstance {
    db: Database
  }
}

export interface DatabaseOptions {
  url: string | undefined
  snapshot?: string | undefined
  /** An open database to use in place of `url`; the caller closes it. */
  db?: Database | undefined
  /** Whether the progress of a long start is logged on the standard output. @default false */
  logProgress?: boolean | undefined
}

/**
 * Adds `fastify.db`: the PostgreSQL server at `url`, or else one that is embedded in this process and stores its data
 * in memory. The embedded one starts with the content of the file `snapshot`, which the first start writes.
 */
export const database = fp<DatabaseOptions>(async function database (
  fastify, { url, snapshot, db: given, logProgress = false }
) {
  if (given !== undefined) {
    const shared = await share(given)
    fastify.addHook('onClose', async () => await shared.close())
    fastify.decorate('db', shared)
    return
  }
  const open = async (report: Report): Promise<Database> => {
    report(0, url === undefined ? 'starting PostgreSQL in this process' : 'connecting')
    const db = url === undefined ? await openEmbedded(snapshot) : openServer(url, fastify.log)
    fastify.addHook('onClose', async () => await db.close())
    await initialize(db, report)
    return db
  }
  fastify.decorate('db', logProgress ? await withProgress(open) : await open(() => {}))
}, { name: 'demo/database' })

/** Returns a view of a database of another owner. Closing the view only stops its listeners. */
async function share (db: Database): Promise<Database> {
  await initialize(db, () => {})
  let isClosed = false
  return {
    ...db,
    listen: async (channel, onMessage, onStart) =>
      await db.listen(channel, payload => { if (!isClosed) onMessage(payload) }, onStart),
    close: async () => { isClosed = true }
  }
}

/** Creates the tables if they are missing. */
async function initialize (db: Database, report: Report): Promise<void> {
  const wereCreated = await db.transaction(async query => await createTables(query, report))
  if (!wereCreated) return
  report(97, 'saving the snapshot')
  await db.saveSnapshot?.()
}

/** @returns whether the tables were missing */
async function createTables (query: Query, report: Report): Promise<boolean> {
  // One of several instances that start together creates the tables; the others wait.
  await query('SELECT pg_advisory_xact_lock(814920)')
  // Tables that exist are not touched: that would lock those of a running shop.
  await query('CREATE TABLE IF NOT EXISTS applied_schema (digest text PRIMARY KEY)')
  const digest = createHash('sha256').update([...schemaSql, ...triggerSql].join(';')).digest('hex')
  const [present] = await query('SELECT 1 AS one FROM applied_schema WHERE digest = $1', [digest])
  if (present !== undefined) return false
  report(70, 'creating the tables')
  for (const statement of schemaSql) await query(statement)
  await seed(query, report)
  // After the seed, whose rows need no notifications.
  for (const statement of triggerSql) await query(statement)
  await query('INSERT INTO applied_schema VALUES ($1)', [digest])
  return true
}

function openServer (connectionString: string, log: FastifyBaseLogger): Database {
  const closeListeners: Array<() => Promise<void>> = []
  const pool = new pg.Pool({ connectionString, connectionTimeoutMillis: 5000 })
  // The pool replaces an idle connection that breaks; without a listener, its error would end the process.
  pool.on('error', () => {})
  return {
    query: async <T extends Row>(sql: string, params: unknown[] = []) => (await pool.query<T>(sql, params)).rows,
    async transaction (work) {
      const client = await pool.connect()
      try {
        await client.query('BEGIN')
        const result = await work(async <T extends Row>(sql: string, params: unknown[] = []) =>
          (await client.query<T>(sql, params)).rows)
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
