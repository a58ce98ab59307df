import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'

const NAMES = ['redis-server', 'valkey-server']

/** The server's binary: $REDIS_SERVER when set, else redis-server or valkey-server on the PATH. */
export function findRedis (): string | undefined {
  const given = process.env['REDIS_SERVER']
  if (given) return isExecutable(given) ? given : undefined
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter(Boolean)
  return NAMES.flatMap(name => folders.map(folder => join(folder, name))).find(isExecutable)
}

export function redisBinary (): string {
  const binary = findRedis()
  if (!binary) {
    const given = process.env['REDIS_SERVER']
    throw new Error(given
      ? `REDIS_SERVER=${given} is not an executable file`
      : `No ${NAMES.join(' or ')} on the PATH: run \`npx tsx tools/servers/install-redis.ts\` or set REDIS_SERVER`)
  }
  return binary
}

function isExecutable (file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}
