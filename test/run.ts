// Runs one lane of the tests: `tsx test/run.ts functional`, `timing` or `stress`; test files, or options of tap, may follow.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { servePool } from './helpers/servers/pool.js'
import { stopAll } from './helpers/servers/registry.js'

/** What tap is called with where no files are named. The functional lane is what `.taprc` includes. */
const LANES: Record<string, string[]> = {
  functional: [],
  // One file at a time: what is measured in milliseconds needs the machine for itself.
  timing: ['--jobs=1', 'test/timing/**/*.test.ts'],
  stress: ['--jobs=1', '--timeout=600', 'test/stress/**/*.test.ts']
}
// Compiled by tsx, which starts quicker than tap's own compiler; types are checked by `npm run typecheck`.
const TSX = ['--disable-coverage', '--allow-empty-coverage', '--plugin=!@tapjs/typescript', '--node-arg=--import=tsx']

const [lane = '', ...rest] = process.argv.slice(2)
const defaults = LANES[lane]
if (defaults === undefined) {
  console.error(`unknown lane "${lane}"; one of ${Object.keys(LANES).join(', ')}`)
  process.exit(2)
}
const namesFiles = rest.some(arg => !arg.startsWith('-'))
const withCoverage = rest.includes('--coverage')
const args = [
  ...withCoverage ? [] : TSX,
  ...defaults.filter(arg => arg.startsWith('-') || !namesFiles),
  ...rest.filter(arg => arg !== '--coverage')
]

const started = performance.now()
const pool = await servePool()
const tap = spawn('tap', args, { stdio: 'inherit', env: { ...process.env, TEST_SERVERS: pool.path } })
// tap ends its files by itself, and this process then stops the servers.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => { tap.kill(signal) })
const [code, signal] = await once(tap, 'exit') as [number | null, string | null]
pool.close()
await stopAll()
const seconds = Math.round((performance.now() - started) / 1000)
console.log(`${lane} tests: ${code === 0 ? 'passed' : 'FAILED'} in ${seconds} s${cpuTime()}`)
process.exit(code ?? (signal === null ? 1 : 130))

/** Of the processes that this one has waited for and theirs, as Linux counts it. */
function cpuTime (): string {
  try {
    const fields = readFileSync('/proc/self/stat', 'utf8').split(') ')[1]?.split(' ') ?? []
    const ticks = [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0)
    return `, ${Math.round(ticks / 100)} s of CPU`
  } catch {
    return ''
  }
}
