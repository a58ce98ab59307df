// Run before `npm test` and `npm run demo:redis`: installs a redis-server if the machine has none. Never leaves one
// running.
import { spawnSync } from 'node:child_process'
import { findRedis } from './redis-binary.js'

type Command = [string, ...string[]]

function has (command: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${command}`]).status === 0
}

function run (command: Command): boolean {
  console.log(`$ ${command.join(' ')}`)
  return spawnSync(command[0], command.slice(1), { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0
}

function installWithApt (): boolean {
  const root: string[] = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  const asRoot = (...command: string[]) => run([...root, ...command] as Command)

  // A third party's broken source fails the update, but the package may still be available.
  asRoot('apt-get', 'update', '-qq')
  // RUNLEVEL=1 keeps init scripts from starting the service (which fails the install if 6379 is taken).
  const installed = asRoot('env', 'DEBIAN_FRONTEND=noninteractive', 'RUNLEVEL=1',
    'apt-get', 'install', '-qq', '-y', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120', 'redis-server')
  // systemd ignores RUNLEVEL.
  if (installed) {
    asRoot('update-rc.d', 'redis-server', 'disable')
    asRoot('service', 'redis-server', 'stop')
  }
  return installed
}

function install (): boolean {
  if (has('apt-get')) return installWithApt()
  if (process.platform === 'darwin' && has('brew')) return run(['brew', 'install', 'redis'])
  return false
}

function fail (reason: string): void {
  console.error(reason)
  process.exitCode = 1
}

if (!findRedis()) {
  if (process.env['REDIS_SERVER']) fail(`REDIS_SERVER=${process.env['REDIS_SERVER']} is not an executable file.`)
  else if (!install() || !findRedis()) {
    fail('The tests need redis-server (or valkey-server) on the PATH, or REDIS_SERVER=/path/to/it: please install it.')
  }
}
