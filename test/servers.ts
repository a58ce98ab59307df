// Runs the lane `servers` on each server that can be installed here: `tsx test/servers.ts`, or some of them by name: `valkey-9`, or with a binary of
// your own, `redis-6.2=/opt/redis/redis-server`. Test files, or options of tap, may follow.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { NotInstallable } from '../tools/servers/debian-packages.js'
import { installServer } from '../tools/servers/install-server.js'
import { chooseServers, type ChosenServer } from '../tools/servers/server-list.js'

interface Result {
  name: string
  version: string
  result: string
}

const isForTap = (arg: string): boolean => arg.startsWith('-') || arg.endsWith('.test.ts')
const args = process.argv.slice(2)
const results: Result[] = []
for (const chosen of chooseServers(args.filter(arg => !isForTap(arg)))) results.push(await runOn(chosen, args.filter(isForTap)))

console.log('\nserver      version   result')
for (const { name, version, result } of results) console.log(`${name.padEnd(11)} ${version.padEnd(9)} ${result}`)
process.exitCode = results.some(({ result }) => result.startsWith('FAILED')) ? 1 : 0

async function runOn (chosen: ChosenServer, forTap: string[]): Promise<Result> {
  const { name } = chosen.server
  try {
    const { binary, version } = await installServer(chosen)
    console.log(`\n==> ${name}, version ${version}`)
    const lane = spawn('tsx', ['test/run.ts', 'servers', ...forTap], { stdio: 'inherit', env: { ...process.env, REDIS_SERVER: binary } })
    const [code] = await once(lane, 'exit') as [number | null]
    return { name, version, result: code === 0 ? 'passed' : 'FAILED' }
  } catch (error) {
    if (!(error instanceof NotInstallable)) throw error
    const result = chosen.binary === undefined ? `skipped: ${error.message}` : `FAILED: ${error.message}`
    console.log(`\n==> ${name} ${result}`)
    return { name, version: '', result }
  }
}
