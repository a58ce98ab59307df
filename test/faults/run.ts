// Drives two instances with all plugins under a steady load while Redis, or one of them, fails; one row per fault.
// `npm run test:faults [-- --only <name>,<name>] [--hold <seconds>] [--gate]`; a whole run writes docs/operations/reliability.md. With `--gate` it fails only
// for what a busy machine does not excuse: a crash, a 500, a request without a response, a lost session, a key without a TTL.
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { drive } from './drive.js'
import { FAULTS, type Fault } from './faults.js'
import { judge, type Figures } from './judge.js'
import { report } from './report.js'

// The machine may be busy: a row that misses only goals about time runs again.
const ATTEMPTS = 2

async function run (fault: Fault, holdMs: number): Promise<Figures> {
  for (let attempt = 1; ; attempt++) {
    const figures = judge(fault, await drive(fault, holdMs))
    const { missed, isTimeAlone, isBroken, ...shown } = figures
    console.log(fault.name, JSON.stringify(shown, (_, value) => typeof value === 'number' ? Math.round(value) : value))
    for (const miss of missed) console.log(`  missed: ${miss}`)
    if (missed.length === 0 || !isTimeAlone || attempt === ATTEMPTS) return figures
  }
}

const { values: { only, hold, gate } } = parseArgs({ options: { only: { type: 'string' }, hold: { type: 'string', default: '4' }, gate: { type: 'boolean', default: false } } })
const names = only?.split(',')
const unknown = names?.filter(name => !FAULTS.some(fault => fault.name === name)) ?? []
if (unknown.length > 0) throw new Error(`no fault ${unknown.join(', ')}; there are ${FAULTS.map(({ name }) => name).join(', ')}`)

const rows: Array<[Fault, Figures]> = []
for (const fault of FAULTS.filter(({ name }) => names?.includes(name) ?? true)) rows.push([fault, await run(fault, Number(hold) * 1000)])
const text = report(rows, Number(hold))
if (names === undefined) writeFileSync(new URL('../../docs/operations/reliability.md', import.meta.url), text)
console.log(`\n${text}`)
// A process that was killed may have left a socket open.
process.exit(rows.some(([, figures]) => gate ? figures.isBroken : figures.missed.length > 0) ? 1 : 0)
