// Installs a server of the list into node_modules/.cache, beside the server that the machine has.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { downloadPackage, NotInstallable } from './debian-packages.js'
import { writeLauncher } from './server-launcher.js'
import { isVersionOf, type ChosenServer, type ListedServer } from './server-list.js'

const run = promisify(execFile)

const CACHE = resolve('node_modules/.cache/redis-servers')

/** Packages that a server links to. The others are for its installation. */
const NEEDED = /^(lib|zlib|lua-|redis-|valkey-|redict-)/

export interface InstalledServer {
  /** For $REDIS_SERVER. */
  binary: string
  version: string
}

/** @throws NotInstallable with the reason */
export async function installServer ({ server, binary }: ChosenServer): Promise<InstalledServer> {
  const installed = binary === undefined ? await cached(server) : resolve(binary)
  const version = await versionOf(installed)
  if (!isVersionOf(server, version)) {
    throw new NotInstallable(`${binary ?? `Debian ${server.suites.at(-1)}`} has version ${version}`)
  }
  return { binary: installed, version }
}

async function cached (server: ListedServer): Promise<string> {
  if (server.suites.length === 0) {
    throw new NotInstallable(`Debian has no package of it: use ${server.name}=/path/to/${server.package}`)
  }
  const dir = join(CACHE, server.name)
  if (!existsSync(dir)) await install(server, dir)
  return join(dir, server.package)
}

async function install (server: ListedServer, dir: string): Promise<void> {
  mkdirSync(CACHE, { recursive: true })
  const scratch = mkdtempSync(join(CACHE, `${server.name}-`))
  try {
    const packages = await downloadPackage(server.package, server.suites, join(scratch, 'apt'))
    for (const file of packages.filter(file => NEEDED.test(basename(file)))) {
      await run('dpkg-deb', ['-x', file, join(scratch, 'root')])
    }
    rmSync(join(scratch, 'apt'), { recursive: true })
    rmSync(join(scratch, 'root/usr/share'), { recursive: true, force: true })
    writeLauncher(scratch, server.package)
    // Another run may have installed it meanwhile.
    if (!existsSync(dir)) renameSync(scratch, dir)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

async function versionOf (binary: string): Promise<string> {
  try {
    const { stdout } = await run(binary, ['--version'])
    const version = /\bv=(\d+(\.\d+)*)/.exec(stdout)?.[1]
    if (version !== undefined) return version
    throw new Error(`it printed ${JSON.stringify(stdout.slice(0, 80))}`)
  } catch (error) {
    throw new NotInstallable(`${binary} --version failed: ${(error as Error).message}`)
  }
}
