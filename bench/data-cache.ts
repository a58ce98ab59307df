import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { PEERS } from './data-cache-peers.js'
import type { Round } from './data-cache-worker.js'
import { report, type Row } from './run.js'

// Measures `fastify.cache` and its peers on one Redis, with a process for each library and row. Their rounds alternate,
// and the table has the median with its ratio to this suite's: above 1.00 a peer is better, below worse.
// `--rows l1,miss` runs these rows alone.
const ALL = ['l1', 'l2', 'miss', 'stampede', 'tags']
const { values: { rows = ALL.join(), rounds = '5', counts = '10,10000,1000000' } } = parseArgs({
  options: { rows: { type: 'string' }, rounds: { type: 'string' }, counts: { type: 'string' } }
})
const chosen = rows.split(',')
const unknown = chosen.find(row => !ALL.includes(row))
if (unknown !== undefined) throw new Error(`no row ${unknown}: ${ALL.join(', ')}`)

const SUITE = 'this suite'
const server = await startRedis()

interface Library { name: string, child: ChildProcess, rounds: Round[] }

async function measure (row: string, times: number, env: Record<string, string> = {}): Promise<Library[]> {
  const libraries: Library[] = []
  for (const name of Object.keys(PEERS)) {
    const child = fork(new URL('./data-cache-worker.ts', import.meta.url), [name, row, server.url], {
      execArgv: ['--import', 'tsx', '--max-old-space-size=8192'], env: { ...process.env, ...env }
    })
    const { problem } = await next(child)
    if (problem !== undefined) throw new Error(`${name}, ${row}: ${problem}`)
    libraries.push({ name, child, rounds: [] })
  }
  for (let round = 0; round < times; round++) {
    for (const { child, rounds } of libraries) {
      if (child.connected) child.send('go')
      rounds.push(await next(child))
    }
  }
  for (const { child } of libraries) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.disconnect()
    await once(child, 'exit')
  }
  return libraries
}

/** Resolves with the worker's next round, or with a problem if it has exited. */
async function next (child: ChildProcess): Promise<Round> {
  const ended: Round = { figures: {}, commands: {}, problem: 'the process has ended' }
  if (child.exitCode !== null || child.signalCode !== null) return ended
  const settled = new AbortController()
  const { signal } = settled
  const [round] = await Promise.race(
    [once(child, 'message', { signal }), once(child, 'exit', { signal }).then(() => [ended])]
  )
  settled.abort()
  return round
}

function sorted (values: number[]): number[] {
  return values.filter(Number.isFinite).sort((a, b) => a - b)
}

function median ({ rounds }: Library, name: string): number {
  const values = sorted(rounds.map(({ figures }) => figures[name] ?? NaN))
  return values[Math.floor(values.length / 2)] ?? NaN
}

/** The commands of Redis per operation, by name. */
function commandsOf ({ rounds }: Library): { total: number, text: string } {
  const sums = new Map<string, number>()
  let operations = 0
  for (const { figures, commands } of rounds) {
    operations += figures['operations'] ?? 0
    for (const [name, calls] of Object.entries(commands)) sums.set(name, (sums.get(name) ?? 0) + calls)
  }
  const each = [...sums].map(([name, calls]) =>
    ({ name, calls: calls / operations })).filter(({ calls }) => calls >= 0.01).sort((a, b) => b.calls - a.calls)
  return {
    total: each.reduce((total, { calls }) => total + calls, 0),
    text: each.map(({ name, calls }) => `${name} ${short(calls)}`).join(', ')
  }
}

const short = (value: number): string =>
  !Number.isFinite(value)
    ? '–'
    : value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)))

interface Column {
  title: string
  figure: string
  /** Whether a larger or a smaller figure is better; the table then has the ratio to the suite's figure. */
  better?: 'more' | 'less'
}

function table (title: string, libraries: Library[], columns: Column[]): void {
  const ours = libraries.find(({ name }) => name === SUITE)
  report(title, libraries.map(library => {
    const row: Row = { variant: library.name }
    for (const { title, figure, better } of columns) {
      const value = median(library, figure)
      row[title] = short(value)
      if (better === undefined) continue
      const ratio = ours === undefined
        ? NaN
        : better === 'less' ? median(ours, figure) / value : value / median(ours, figure)
      row[`ratio of ${title}`] = Number.isFinite(ratio) ? ratio.toFixed(2) : '–'
    }
    const { total, text } = commandsOf(library)
    return { ...row, 'Redis commands': short(total), which: text }
  }))
  for (const { name, rounds } of libraries) {
    for (const { problem } of rounds) if (problem !== undefined) console.log(`\n${name}: ${problem}`)
  }
}

const one: Column = { title: 'µs, one caller', figure: 'us, one caller', better: 'less' }
const many: Column = { title: 'a second, 50 callers', figure: 'a second, 50 callers', better: 'more' }
const took: Column = { title: 'ms', figure: 'ms', better: 'less' }
const times = Number(rounds)

if (chosen.includes('l1')) table('Hit in this process, 100 keys of 1 KiB', await measure('l1', times), [one])
if (chosen.includes('l2')) table('Hit in Redis, without L1', await measure('l2', times), [one, many])
if (chosen.includes('miss')) {
  table(
    'Miss, each another key', await measure('miss', times),
    [one, many, { title: 'factory runs', figure: 'runs an operation' }]
  )
}
if (chosen.includes('stampede')) {
  for (const instances of [1, 4]) {
    table(`1,000 callers at once for a missing key, ${instances} instance(s), the factory takes 20 ms`, await measure(
      `stampede-${instances}`, 3 * times
    ),
    [{ title: 'factory runs', figure: 'runs' }, { ...took, title: 'ms to the last answer' }])
  }
}
if (chosen.includes('tags')) {
  for (const count of counts.split(',')) {
    table(`Invalidation of a tag of ${Number(count).toLocaleString('en')} entries`, await measure(
      'tags', Number(count) > 100_000 ? 1 : times, { COUNT: count }
    ),
    Number(count) < 1000
      ? [took]
      : [took, { title: 'bytes an entry in Redis', figure: 'bytes an entry' }, { title: 'MB', figure: 'MB' }])
  }
}
await stopAll()
