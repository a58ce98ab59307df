import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { makeCertificate } from './certificate.js'
import type { RedisServer } from '../../../tools/servers/redis-process.js'
import { startOnFreePort } from '../../../tools/servers/start-on-free-port.js'

export type { RedisServer } from '../../../tools/servers/redis-process.js'

export interface RedisServerOptions {
  /** @default a free port */
  port?: number
  /** The password of the default user. */
  password?: string
  /** TLS only, with a self-signed certificate. */
  tls?: boolean
  /** As in redis.conf: '10mb'. */
  maxmemory?: string
  maxmemoryPolicy?: string
  /** Users, as in redis.conf: 'app on >secret ~app:* +@all'. The helpers themselves are the default user. */
  acl?: string[]
  /** Every acknowledged write survives kill() and restart(). */
  appendonly?: boolean
  /** For the command line: ['--maxclients', '10']. */
  args?: string[]
}

/** Starts a server, and resolves when it responds. It ends with stop(), or at the latest with this process. */
export async function startRedis (options: RedisServerOptions = {}): Promise<RedisServer> {
  return await startOnFreePort(options.port, async (port, dir) => ({
    port,
    dir,
    config: configOf(port, options),
    args: options.args ?? [],
    password: options.password,
    ca: options.tls ? await writeCertificate(dir) : undefined
  }))
}

function configOf (port: number, options: RedisServerOptions): string[] {
  const { password, maxmemory, maxmemoryPolicy, acl = [] } = options
  return [
    'bind 127.0.0.1',
    ...options.tls
      ? ['port 0', `tls-port ${port}`, 'tls-cert-file tls.crt', 'tls-key-file tls.key', 'tls-auth-clients no']
      : [`port ${port}`],
    // Without this, the server announces one of the machine's addresses to clients and replicas.
    'replica-announce-ip 127.0.0.1',
    'cluster-announce-ip 127.0.0.1',
    'save ""',
    ...options.appendonly ? ['appendonly yes', 'appendfsync always'] : ['appendonly no'],
    // Redis 7 delays a new replica by 5 s, to wait for further ones.
    'repl-diskless-sync-delay 0',
    ...password ? [`requirepass ${quote(password)}`, `masterauth ${quote(password)}`] : [],
    ...maxmemory ? [`maxmemory ${maxmemory}`] : [],
    ...maxmemoryPolicy ? [`maxmemory-policy ${maxmemoryPolicy}`] : [],
    ...acl.map(user => `user ${user}`)
  ]
}

// redis.conf reads a quoted string with the escapes of JSON's that matter here: \" and \\.
export function quote (value: string): string {
  return JSON.stringify(value)
}

async function writeCertificate (dir: string): Promise<string> {
  const { cert, key } = await makeCertificate()
  await writeFile(join(dir, 'tls.crt'), cert)
  await writeFile(join(dir, 'tls.key'), key)
  return cert
}
