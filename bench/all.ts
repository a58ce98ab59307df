// Runs all benchmarks one after another, and prints the goals that they reach. `--quick` runs short rounds for a first
// look; `--only whole,session` runs some. `WRITE_DOCS=true` writes the goals of a whole run into
// `docs/operations/performance.md`.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { GOALS } from './frame/goals.js'
import { goalRows, withGoals } from './frame/goals-table.js'
import { describeMachine } from './frame/machine.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'
import type { Result } from './frame/results.js'

const BENCHES = ['rate-limit', 'session', 'cache', 'data-cache', 'whole', 'metrics', 'circuit', 'demo-faults']
const PAGE = new URL('../docs/operations/performance.md', import.meta.url)

const options = readOptions(BENCHES)
const isWhole = !options.isQuick && options.parts.size === BENCHES.length && options.variants === undefined
const writesDocs = process.env['WRITE_DOCS'] === 'true'
if (writesDocs && !isWhole) throw new Error('WRITE_DOCS=true takes a whole run, without --quick, --only and --variants')

/** Runs a benchmark. @returns its results, and whether it ended with 0 */
async function run (name: string): Promise<{ results: Result[], isPassed: boolean }> {
  const args = [`--rounds=${options.rounds}`, ...options.isQuick ? ['--quick'] : []]
  const child = fork(new URL(`./${name}.ts`, import.meta.url), args, { execArgv: ['--import', 'tsx'] })
  const results: Result[] = []
  child.on('message', (sent: Result[]) => { results.push(...sent) })
  const [code] = await once(child, 'exit')
  return { results, isPassed: code === 0 }
}

const failed: string[] = []
const all: Result[] = []
for (const name of BENCHES.filter(name => options.parts.has(name))) {
  console.log(`\n# bench:${name}`)
  const { results, isPassed } = await run(name)
  all.push(...results)
  if (!isPassed) failed.push(name)
}
console.log('\n# All')
const rows = goalRows(all)
const machine = await describeMachine(options.rounds)
const report = new Report(options.isQuick)
console.log(`\n${machine}`)
if (rows.length > 0) report.table('Goals', rows)
const missing = GOALS.filter(({ row }) => !rows.some(each => each['row'] === row)).map(({ row }) => row)
if (options.parts.size === BENCHES.length && missing.length > 0) console.log(`\nnot measured: ${missing.join('; ')}`)
if (failed.length > 0) console.log(`\nfailed: ${failed.join(', ')}`)
else if (writesDocs) writeFileSync(PAGE, withGoals(readFileSync(PAGE, 'utf8'), machine, rows))
process.exitCode = failed.length > 0 ? 1 : 0
