import { randomUUID } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { PGlite } from '@electric-sql/pglite'
import type { Database } from './database.js'
import type { Row } from './query.js'

/** A PostgreSQL in this process's memory, which begins with what `snapshot` has, if that is there. */
export async function openEmbedded (snapshot: string | undefined): Promise<Database> {
  const kept = snapshot === undefined ? undefined : await readFile(snapshot).then(bytes => new Blob([bytes]), () => undefined)
  const client = new PGlite({ loadDataDir: kept })
  await client.waitReady.catch(error => {
    throw kept === undefined ? error : new Error(`DATABASE_SNAPSHOT ${snapshot} is of no use, remove it: ${error}`)
  })
  return {
    query: async <T extends Row>(sql: string, params: unknown[] = []) => (await client.query<T>(sql, params)).rows,
    transaction: async work => await client.transaction(async tx =>
      await work(async <T extends Row>(sql: string, params: unknown[] = []) => (await tx.query<T>(sql, params)).rows)),
    async listen (channel, onMessage, onStart) {
      await client.listen(channel, onMessage)
      onStart()
    },
    async keep () {
      if (snapshot === undefined) return
      // Otherwise each start would repeat all that was written until now.
      await client.exec('CHECKPOINT')
      const content = await client.dumpDataDir('none')
      // Whole or not at all, whoever else is starting.
      const unfinished = `${snapshot}.${randomUUID()}`
      await writeFile(unfinished, content.stream())
      await rename(unfinished, snapshot)
    },
    close: async () => await client.close()
  }
}
