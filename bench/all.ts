// Runs all benchmarks one after another, and writes an overview of them to the head of
// `docs/operations/performance.md`. `--quick` runs short rounds for a first look, and writes nothing;
// `--only whole,session` runs some, and replaces their lines in the overview.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { serverName } from '../tools/servers/server-name.js'
import { overview } from './overview.js'
import type { Row } from './run.js'

interface Bench { env?: NodeJS.ProcessEnv, args?: string[] }

/** The environment of each benchmark with `--quick`. */
const BENCHES: Record<string, Bench> = {
  'rate-limit': { env: { PARTS: 'load' } },
  session: { env: { PARTS: 'load' } },
  cache: { env: { PARTS: 'load', SIZES: '1024' } },
  'data-cache': { env: { MS: '300' }, args: ['--rows', 'l1,l2', '--rounds', '1'] },
  whole: {},
  metrics: {},
  circuit: {},
  'demo-faults': {}
}
const QUICK = { ROUNDS: '1', PROCESSES: '1', SECONDS: '1' }
const PAGE = new URL('../docs/operations/performance.md', import.meta.url)
const [BEGIN, END] = ['<!-- overview: written by npm run bench -->', '<!-- end of overview -->']

const {
  values: {
    quick = false, only
  }
} = parseArgs({ options: { quick: { type: 'boolean' }, only: { type: 'string' } } })
const chosen = only?.split(',') ?? Object.keys(BENCHES)
const unknown = chosen.find(name => BENCHES[name] === undefined)
if (unknown !== undefined) throw new Error(`no bench ${unknown}: ${Object.keys(BENCHES).join(', ')}`)

/** @returns the tables of a benchmark by title */
async function run (name: string): Promise<Array<[string, Row[]]>> {
  const { env = {}, args = [] } = quick ? BENCHES[name] ?? {} : {}
  const child = fork(
    new URL(`./${name}.ts`, import.meta.url), args,
    { execArgv: ['--import', 'tsx'], env: { ...process.env, ...quick && QUICK, ...env } }
  )
  const tables: Array<[string, Row[]]> = []
  child.on('message', ({ title, rows }: { title: string, rows: Row[] }) => { tables.push([title, rows]) })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`bench:${name} ended with ${code}`)
  return tables
}

async function machine (): Promise<string> {
  const server = await startRedis()
  const client = new Redis(server.url)
  const name = serverName(await client.info('server'))
  client.disconnect()
  await server.stop()
  return `${cpus().length} cores; Node.js ${process.versions.node}, ${name}.`
}

/** Returns the lines of the overview, with new ones in place of those of the same name. */
function merged (before: string, now: string): string {
  const nameOf = (line: string) => line.split('|')[1]
  const fresh = new Map(now.split('\n').map(line => [nameOf(line), line]))
  return before.split('\n').filter(line => line.startsWith('|')).map(line => fresh.get(nameOf(line)) ?? line).join('\n')
}

const tables = new Map<string, Row[]>()
for (const name of chosen) {
  console.log(`\n# bench:${name}`)
  for (const [title, rows] of await run(name)) tables.set(title, rows)
}
const lines = overview(tables)
console.log(`\n${lines}`)
if (!quick) {
  const page = readFileSync(PAGE, 'utf8')
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)]
  if (begin === -1 || end < begin) {
    throw new Error(`docs/operations/performance.md has no place for the overview: ${BEGIN} and ${END}`)
  }
  const table = only === undefined ? lines : merged(page.slice(begin, end), lines)
  writeFileSync(PAGE, `${page.slice(0, begin + BEGIN.length)}\n\n${await machine()}\n\n${table}\n\n${page.slice(end)}`)
}
