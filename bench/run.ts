// What the benches share: servers in processes of their own, whose rounds of load take turns, and tables of what came of it.
import { execFileSync, fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import autocannon from 'autocannon'
import type { Redis } from 'ioredis'

export const CONNECTIONS = 100

export interface Server { child: ChildProcess, url: string }

/** What a round of load came to; what Redis did is for one request. */
export interface Round {
  rate: number
  p50: number
  p99: number
  failed: number
  bytesIn: number
  bytesOut: number
  /** Microseconds of Redis, and of the server itself. */
  cpu: number
  ownCpu: number
  /** Those inside a script too, as Redis counts them. */
  commands: Record<string, number>
}

/** A variant, and its rounds in all of its processes. */
export interface Measured { variant: string, servers: Server[], rounds: Round[] }

/** A number out of the environment: how often, how many, how long. */
export function setting (name: string, fallback: number): number {
  return Number(process.env[name] ?? fallback)
}

/** The core that servers have for themselves; undefined: they share all with whoever is there. */
let ownCore: number | undefined

/**
 * From now on a server has a core for itself, and this process and what else it starts have the others: where a server is in
 * use, Redis and the load are on other machines. It needs Linux and two cores; else all stays as it is.
 */
export function giveServersACore (): void {
  const last = availableParallelism() - 1
  if (last === 0) return
  try {
    execFileSync('taskset', ['-a', '-c', '-p', `0-${last - 1}`, String(process.pid)], { stdio: 'ignore' })
    ownCore = last
  } catch {
    console.log('no taskset: the servers share their cores with Redis and the load')
  }
}

/** @param file - a server of this folder, which tells its address when it listens */
export async function startServer (file: string, args: string[]): Promise<Server> {
  const execArgv = ['--import', 'tsx']
  const options = ownCore === undefined ? { execArgv } : { execPath: 'taskset', execArgv: ['-c', String(ownCore), process.execPath, ...execArgv] }
  const child = fork(new URL(file, import.meta.url), args, options)
  const ended = once(child, 'exit').then(([code]) => { throw new Error(`${file} ${args.join(' ')} ended with ${code}`) })
  const [url] = await Promise.race([once(child, 'message'), ended])
  ended.catch(() => {})
  return { child, url }
}

export async function stopServers (servers: Iterable<Server>): Promise<void> {
  for (const { child } of servers) {
    const ended = once(child, 'exit')
    child.kill()
    await ended
  }
}

export type Headers = Record<string, string>

/** @param clients - the headers of each: a connection is that of some of them, in turn */
async function shoot (url: string, seconds: number, clients: readonly Headers[] = []) {
  let next = 0
  const setupClient = (client: autocannon.Client) => {
    const connection = next++ % CONNECTIONS
    client.setRequests(clients.filter((_, i) => i % CONNECTIONS === connection).map(headers => ({ headers })))
  }
  return await autocannon({ url, connections: CONNECTIONS, duration: seconds, ...(clients.length > 0 && { setupClient }) })
}

/** Microseconds of CPU time that a server has used. */
export async function ownCpu (child: ChildProcess): Promise<number> {
  child.send('cpu')
  const [{ cpu }] = await once(child, 'message')
  return cpu
}

async function statistics (redis: Redis) {
  const info = await redis.info('stats', 'cpu', 'commandstats')
  const read = (name: string) => Number(new RegExp(`${name}:([\\d.]+)`).exec(info)?.[1])
  const commands = new Map([...info.matchAll(/cmdstat_([^:]+):calls=(\d+)/g)].map(([, name = '', calls]) => [name.toUpperCase(), Number(calls)]))
  commands.delete('INFO')
  return {
    bytesIn: read('total_net_input_bytes'),
    bytesOut: read('total_net_output_bytes'),
    cpu: read('used_cpu_user') + read('used_cpu_sys'),
    commands
  }
}

/** One round of load. @param redis - whose work is counted */
export async function load (redis: Redis, { child, url }: Server, path: string, seconds: number, clients?: readonly Headers[]): Promise<Round> {
  const [before, cpuBefore] = [await statistics(redis), await ownCpu(child)]
  const { requests, latency, errors, non2xx } = await shoot(url + path, seconds, clients)
  const [after, cpuAfter] = [await statistics(redis), await ownCpu(child)]
  const each = (grown: number) => grown / requests.total
  return {
    rate: requests.average,
    p50: latency.p50,
    p99: latency.p99,
    failed: errors + non2xx,
    bytesIn: each(after.bytesIn - before.bytesIn),
    bytesOut: each(after.bytesOut - before.bytesOut),
    cpu: each(after.cpu - before.cpu) * 1e6,
    ownCpu: each(cpuAfter - cpuBefore),
    commands: Object.fromEntries([...after.commands].map(([name, calls]) => [name, each(calls - (before.commands.get(name) ?? 0))]))
  }
}

export interface Plan {
  redis: Redis
  variants: readonly string[]
  start: (variant: string) => Promise<Server>
  /** Of each variant, as two processes of one differ. */
  processes: number
  rounds: number
  seconds: number
  path?: string
  /** Headers of the clients, such as the cookie of one that is logged in. */
  clientsOf?: (url: string) => Promise<Headers[]>
}

/** Loads all variants in turn, so that the machine's own drift falls on all of them. Their processes go on. */
export async function takeTurns ({ redis, variants, start, processes, rounds, seconds, path = '', clientsOf }: Plan): Promise<Measured[]> {
  const measured: Measured[] = variants.map(variant => ({ variant, servers: [], rounds: [] }))
  const turns: Array<{ server: Server, clients: Headers[], measured: Measured }> = []
  for (let i = 0; i < processes; i++) {
    for (const one of measured) {
      const server = await start(one.variant)
      one.servers.push(server)
      turns.push({ server, clients: await clientsOf?.(server.url) ?? [], measured: one })
    }
  }
  for (const { server, clients } of turns) await shoot(server.url + path, 1, clients)
  for (let round = 0; round < rounds; round++) {
    // There and back, so that none always comes first.
    for (const { server, clients, measured } of round % 2 === 0 ? turns : [...turns].reverse()) {
      measured.rounds.push(await load(redis, server, path, seconds, clients))
    }
  }
  return measured
}

/** A figure of a variant: the median of its rounds. */
export function figure (measured: readonly Measured[], variant: string, pick: (round: Round) => number): number {
  return median(measured.find(one => one.variant === variant)?.rounds.map(pick) ?? [])
}

/** The columns that the tables begin with. @param beside - variants that this one is a share of */
export function columnsOf (measured: readonly Measured[], { variant, rounds }: Measured, beside: readonly string[]): Row {
  const rateOf = (name: string) => figure(measured, name, ({ rate }) => rate)
  return {
    variant,
    'requests/s': Math.round(rateOf(variant)),
    ...Object.fromEntries(beside.map(other => [`of ${other}`, (rateOf(variant) / rateOf(other)).toFixed(2)])),
    'p50 ms': median(rounds.map(({ p50 }) => p50)),
    'p99 ms': median(rounds.map(({ p99 }) => p99))
  }
}

export function commandsOf ({ commands }: Round): number {
  return Object.entries(commands).reduce((sum, [name, count]) => name.startsWith('CLIENT') || name === 'PING' ? sum : sum + count, 0)
}

/** Which commands a request costs, and how many. */
export function commandsText (rounds: readonly Round[]): string {
  const names = [...new Set(rounds.flatMap(({ commands }) => Object.keys(commands)))]
  const counted = names.map(name => ({ name, count: median(rounds.map(({ commands }) => commands[name] ?? 0)) }))
  return counted.filter(({ count }) => count > 0.05).map(({ name, count }) => `${count.toFixed(1)} ${name}`).join(', ')
}

export function at (values: readonly number[], part: number): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length * part)] ?? NaN
}

export function median (values: readonly number[]): number {
  return at(values, 0.5)
}

export type Row = Record<string, string | number>

export function markdown (rows: readonly Row[]): string {
  const line = (cells: readonly unknown[]) => `| ${cells.join(' | ')} |`
  const names = Object.keys(rows[0] ?? {})
  return [line(names), line(names.map(() => '---')), ...rows.map(row => line(Object.values(row)))].join('\n')
}

/** Prints a table, and where this is a part of `bench/all.ts` hands it up. */
export function report (title: string, rows: readonly Row[]): void {
  console.log(`\n${title}\n\n${markdown(rows)}`)
  process.send?.({ title, rows })
}
