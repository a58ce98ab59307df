// Runs the lane `servers` on each server that can be installed here: `tsx test/servers.ts`, or some of them by name: `valkey-9`, or with a binary of
// your own, `redis-6.2=/opt/redis/redis-server`. Test files, or options of tap, may follow. With WRITE_DOCS=true the results of whole lanes are
// written into docs/clients.md.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { NotInstallable } from '../tools/servers/debian-packages.js'
import { installServer } from '../tools/servers/install-server.js'
import { scratchDir } from '../tools/servers/scratch.js'
import { chooseServers, SERVERS, type ChosenServer } from '../tools/servers/server-list.js'
import { readTap, withRows, type LaneResult, type ServerResult } from './helpers/docs/servers-table.js'

interface Line {
  name: string
  version: string
  result: string
}

const PAGE = 'docs/clients.md'

const isForTap = (arg: string): boolean => arg.startsWith('-') || arg.endsWith('.test.ts')
const args = process.argv.slice(2)
const forTap = args.filter(isForTap)
const lines: Line[] = []
const results: ServerResult[] = []
for (const chosen of chooseServers(args.filter(arg => !isForTap(arg)))) lines.push(await runOn(chosen))

console.log('\nserver      version   result')
for (const { name, version, result } of lines) console.log(`${name.padEnd(11)} ${version.padEnd(9)} ${result}`)
const isWholeLane = forTap.every(arg => arg.startsWith('-'))
if (process.env['WRITE_DOCS'] === 'true' && isWholeLane) {
  writeFileSync(PAGE, withRows(readFileSync(PAGE, 'utf8'), results, SERVERS.map(({ name }) => name)))
}
process.exitCode = lines.some(({ result }) => result.startsWith('FAILED')) ? 1 : 0

async function runOn (chosen: ChosenServer): Promise<Line> {
  const { server: { name, suites }, binary: given } = chosen
  try {
    const { binary, version } = await installServer(chosen)
    console.log(`\n==> ${name}, version ${version}`)
    const result = await runLane(binary)
    results.push({ name, version, origin: given === undefined ? `Debian ${suites.at(-1)}` : 'compiled', ...result })
    const skipped = [...result.skipped.values()].reduce((a, b) => a + b, 0)
    return { name, version, result: `${result.failed === 0 ? 'passed' : 'FAILED'}${skipped === 0 ? '' : `, ${skipped} skipped`}` }
  } catch (error) {
    if (!(error instanceof NotInstallable)) throw error
    const result = given === undefined ? `skipped: ${error.message}` : `FAILED: ${error.message}`
    console.log(`\n==> ${name} ${result}`)
    return { name, version: '', result }
  }
}

async function runLane (binary: string): Promise<LaneResult> {
  const dir = scratchDir()
  const lane = spawn('tsx', ['test/run.ts', 'servers', `--output-dir=${dir}`, ...forTap], { stdio: 'inherit', env: { ...process.env, REDIS_SERVER: binary } })
  const [code] = await once(lane, 'exit') as [number | null]
  const files = readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.tap'))
  const result = readTap(files.map(file => readFileSync(join(dir, file), 'utf8')))
  // A file that ends before its first test has none that failed.
  return code === 0 ? result : { ...result, failed: Math.max(1, result.failed) }
}
