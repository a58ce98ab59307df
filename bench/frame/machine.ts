import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { Redis } from 'ioredis'
import { startRedis } from '../../test/helpers/servers/redis-server.js'
import { serverName } from '../../tools/servers/server-name.js'

const PACKAGES = [
  'fastify', 'ioredis', '@fastify/rate-limit', '@fastify/session', 'rate-limiter-flexible', 'bentocache',
  'async-cache-dedupe', 'cacheable'
]

/** Returns the machine and the versions of what was measured. */
export async function describeMachine (rounds: number): Promise<string> {
  const server = await startRedis()
  const client = new Redis(server.url)
  const redis = serverName(await client.info('server'))
  client.disconnect()
  await server.stop()
  const cores = `${cpus().length} cores (${cpus()[0]?.model.trim() || 'unknown model'})`
  const packages = PACKAGES.map(name => `\`${name}\` ${versionOf(name)}`).join(', ')
  return `${cores}; Node.js ${process.versions.node}, ${redis}; median of ${rounds} rounds.\n${packages}.`
}

function versionOf (name: string): string {
  const text = readFileSync(new URL(`../../node_modules/${name}/package.json`, import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
