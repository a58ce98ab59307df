// A PostgreSQL server, if the machine has the binaries.
import type { ChildProcess } from 'node:child_process'
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, closeSync, existsSync, openSync, readdirSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { delimiter, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { freePort } from '../../../tools/servers/free-port.js'
import { register, unregister } from '../../../tools/servers/registry.js'
import { forgetPid, notePid, scratchDir } from '../../../tools/servers/scratch.js'
import { until } from '../app/until.js'

const run = promisify(execFile)

export interface PostgresServer {
  port: number
  /** The URL of a database of this name, which is created on first use. */
  url (database: string): Promise<string>
  /** Runs statements with `psql`, and returns its output. */
  psql (database: string, sql: string): Promise<string>
  stop (): Promise<void>
}

/** The folder with `postgres`, `initdb` and `psql`: $PG_BIN, or on the PATH, or where Debian installs it; undefined if there is none. */
export function findPostgres (): string | undefined {
  const debian = '/usr/lib/postgresql'
  const folders = [
    process.env['PG_BIN'] ?? '',
    ...(process.env['PATH'] ?? '').split(delimiter),
    ...(existsSync(debian) ? readdirSync(debian).map(version => join(debian, version, 'bin')) : [])
  ]
  return folders.find(folder => folder !== '' && ['postgres', 'initdb', 'psql'].every(name => existsSync(join(folder, name))))
}

export async function startPostgres (bin: string): Promise<PostgresServer> {
  const dir = scratchDir()
  const port = await freePort()
  const user = otherUser()
  if (user !== undefined) {
    chmodSync(dirname(dir), 0o711)
    chownSync(dir, user.uid, user.gid)
  }
  const data = join(dir, 'data')
  await run(join(bin, 'initdb'), ['-D', data, '-U', 'shop', '-A', 'trust', '-E', 'UTF8', '--no-locale', '--no-sync'], { cwd: dir, ...user })
  const log = openSync(join(dir, 'postgres.log'), 'w')
  const child = spawn(join(bin, 'postgres'), ['-D', data, '-h', '127.0.0.1', '-p', String(port), '-k', '', '-F'], { cwd: dir, stdio: ['ignore', log, log], ...user })
  closeSync(log)
  await once(child, 'spawn')
  notePid(dir, child.pid ?? 0)
  child.once('exit', () => forgetPid(dir))

  const urlOf = (database: string) => `postgres://shop@127.0.0.1:${port}/${database}`
  const psql = async (database: string, sql: string): Promise<string> =>
    (await run(join(bin, 'psql'), ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', urlOf(database), '-c', sql])).stdout.trim()
  const server: PostgresServer = {
    port,
    async url (database) {
      const [present] = await queryOnce(urlOf('postgres'), 'SELECT 1 FROM pg_database WHERE datname = $1', [database])
      if (present === undefined) await queryOnce(urlOf('postgres'), `CREATE DATABASE ${pg.escapeIdentifier(database)}`)
      return urlOf(database)
    },
    psql,
    async stop () {
      await end(child)
      await rm(dir, { recursive: true, force: true })
      unregister(server)
    }
  }
  register(server)
  await until('PostgreSQL answers', async () => (await queryOnce(urlOf('postgres'), 'SELECT 1')).length === 1)
  return server
}

async function queryOnce (connectionString: string, sql: string, params: unknown[] = []): Promise<unknown[]> {
  const client = new pg.Client({ connectionString })
  client.on('error', () => {})
  await client.connect()
  try {
    return (await client.query(sql, params)).rows
  } finally {
    await client.end()
  }
}

/** SIGINT stops it at once, even with open connections. */
async function end (child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGINT')
  await exited
}

/** The server refuses to run as root. */
function otherUser (): { uid: number, gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined
  const idOf = (flag: string) => Number(spawnSync('id', [flag, 'nobody'], { encoding: 'utf8' }).stdout)
  return { uid: idOf('-u'), gid: idOf('-g') }
}
