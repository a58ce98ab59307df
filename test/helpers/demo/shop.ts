// Tests of the demo would mostly wait for its embedded database to be created: here it is created once.
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readConfig, type Config } from '../../../demo/config.js'

const root = join(import.meta.dirname, '../../..')
const folder = join(root, 'node_modules/.cache/fastify-redis-suite')
const madeOf = ['demo/embedded.ts', 'demo/schema.ts', 'demo/seed.ts', 'node_modules/@electric-sql/pglite/package.json']
const digest = madeOf.reduce((hash, file) => hash.update(readFileSync(join(root, file))), createHash('sha256')).digest('hex').slice(0, 16)
mkdirSync(folder, { recursive: true })

export const DATABASE_SNAPSHOT = join(folder, `shop-${digest}.tar`)

/** The demo's configuration, from these variables alone. A busy machine does not count as pressure. */
export function shopConfig (env: NodeJS.ProcessEnv = {}): Config {
  return readConfig({ DATABASE_SNAPSHOT, MAX_EVENT_LOOP_DELAY: '0', ...env })
}
