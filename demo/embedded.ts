import { randomUUID } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { PGlite } from '@electric-sql/pglite'
import type { Database } from './query.js'
import type { Row } from './query.js'

/** Opens a PostgreSQL in the memory of this process, with the content of the file `snapshot` if it exists. */
export async function openEmbedded (snapshot: string | undefined): Promise<Database> {
  const content = snapshot === undefined
    ? undefined
    : await readFile(snapshot).then(bytes => new Blob([bytes]), () => undefined)
  const client = new PGlite({ loadDataDir: content })
  await client.waitReady.catch(error => {
    throw content === undefined
      ? error
      : new Error(`DATABASE_SNAPSHOT ${snapshot} cannot be loaded, remove it: ${error}`)
  })
  return {
    query: async <T extends Row>(sql: string, params: unknown[] = []) => (await client.query<T>(sql, params)).rows,
    transaction: async work => await client.transaction(async tx =>
      await work(async <T extends Row>(sql: string, params: unknown[] = []) => (await tx.query<T>(sql, params)).rows)),
    async listen (channel, onMessage, onStart) {
      await client.listen(channel, onMessage)
      onStart()
    },
    async saveSnapshot () {
      if (snapshot === undefined) return
      // Without a checkpoint, each start would replay all writes so far.
      await client.exec('CHECKPOINT')
      const dump = await client.dumpDataDir('none')
      // Renamed when complete: other processes may be starting.
      const unfinished = `${snapshot}.${randomUUID()}`
      await writeFile(unfinished, dump.stream())
      await rename(unfinished, snapshot)
    },
    close: async () => await client.close()
  }
}
