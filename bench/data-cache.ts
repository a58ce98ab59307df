import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { PEERS } from './data-cache-peers.js'
import type { CallRound, WorkerReply } from './data-cache-worker.js'
import { alternate } from './frame/alternate.js'
import { commandsText } from './frame/http-load.js'
import { short, type Row } from './frame/markdown.js'
import { readOptions } from './frame/options.js'
import { sumOf } from './frame/redis-work.js'
import { Report } from './frame/report.js'
import type { Variant } from './frame/results.js'
import { median } from './frame/statistics.js'

// Measures `fastify.cache` and its peers on one Redis, with a process for each library and row.
// `--only l1,miss` runs these rows alone.
const FREEZE = 'this suite, freeze'
const options = readOptions(['l1', 'l2', 'miss', 'stampede', 'tags', 'tags-million'], ['l1', 'l2', 'miss', 'stampede'])
const report = new Report(options.isQuick)
const ROUND_MS = options.isQuick ? 200 : 1000
const server = await startRedis()

interface Library extends Variant<CallRound> { child: ChildProcess, reply: WorkerReply }

/** Measures a row of the worker, and prints a table for each of its loads. */
async function measure (title: string, row: string, rounds = options.rounds): Promise<void> {
  const libraries: Library[] = []
  for (const variant of Object.keys(PEERS)) {
    // The others hand out copies, as this suite does by default.
    if (variant === FREEZE && row !== 'l1') continue
    if (options.variants?.includes(variant) ?? true) libraries.push(await start(variant, row))
  }
  const loads = new Map<string, Array<Variant<CallRound>>>()
  for (const { variant, reply } of libraries) {
    for (const load of reply.loads) loads.set(load, [...loads.get(load) ?? [], { variant, rounds: [] }])
  }
  await alternate(libraries, rounds, async ({ variant, child }) => {
    const { rounds, problem = 'no round' } = await ask(child)
    for (const [load, variants] of loads) {
      const round = rounds[load] ?? { failed: 1, reasons: [problem], commands: {} }
      variants.find(one => one.variant === variant)?.rounds.push(round)
    }
  })
  for (const { child } of libraries) await stop(child)
  for (const [load, variants] of loads) {
    report.compare(`Data cache, ${title}${load === '' ? '' : `, ${load}`}`, variants, ['this suite'], columnsOf)
  }
}

async function start (variant: string, row: string): Promise<Library> {
  const child = fork(
    new URL('./data-cache-worker.ts', import.meta.url), [variant, row, server.url, String(ROUND_MS)],
    { execArgv: ['--import', 'tsx', '--max-old-space-size=8192'] }
  )
  const reply = await next(child)
  if (reply.problem !== undefined) throw new Error(`${variant}, ${row}: ${reply.problem}`)
  return { variant, child, reply, rounds: [] }
}

async function ask (child: ChildProcess): Promise<WorkerReply> {
  if (child.connected) child.send('go')
  return await next(child)
}

/** Resolves with the worker's next reply, or with a problem if it has exited. */
async function next (child: ChildProcess): Promise<WorkerReply> {
  const ended: WorkerReply = { loads: [], rounds: {}, problem: 'the process has ended' }
  if (child.exitCode !== null || child.signalCode !== null) return ended
  const settled = new AbortController()
  const { signal } = settled
  const [reply] = await Promise.race(
    [once(child, 'message', { signal }), once(child, 'exit', { signal }).then(() => [ended])]
  )
  settled.abort()
  return reply
}

async function stop (child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.disconnect()
  await once(child, 'exit')
}

function columnsOf ({ rounds }: Variant<CallRound>): Row {
  const of = (pick: (round: CallRound) => number | undefined) => median(rounds.map(round => pick(round) ?? NaN))
  const bytes = of(round => round.bytes)
  return {
    'µs a call': short(of(({ throughput = NaN }) => 1e6 / throughput)),
    'factory runs': short(of(({ runs }) => runs)),
    'Redis commands': short(of(({ commands }) => sumOf(commands))),
    commands: commandsText(rounds.map(({ commands }) => commands)),
    ...(!Number.isNaN(bytes) && { 'bytes an entry in Redis': short(bytes) })
  }
}

const { parts, rounds } = options
if (parts.has('l1')) await measure('hit in L1', 'l1')
if (parts.has('l2')) await measure('hit in Redis', 'l2')
if (parts.has('miss')) await measure('miss', 'miss')
if (parts.has('stampede')) {
  for (const instances of [1, 4]) {
    const title = `1,000 callers at once for a missing key, ${instances} instance(s), the factory takes 20 ms`
    await measure(title, `stampede-${instances}`, 3 * rounds)
  }
}
if (parts.has('tags')) {
  for (const count of [10, 10_000]) await measure(`invalidation of a tag of ${short(count)} entries`, `tags-${count}`)
}
if (parts.has('tags-million')) await measure('invalidation of a tag of 1,000,000 entries', 'tags-1000000', 1)
await stopAll()
report.end()
