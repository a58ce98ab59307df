// Shared by the benchmarks: servers in their own processes with alternating rounds of load, and tables of the results.
import { execFileSync, fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import autocannon from 'autocannon'
import type { Redis } from 'ioredis'

export const CONNECTIONS = 100

export interface Server { child: ChildProcess, url: string }

/** The result of a round of load; figures of Redis are per request. */
export interface Round {
  rate: number
  p50: number
  p99: number
  failed: number
  bytesIn: number
  bytesOut: number
  /** CPU time of Redis, and of the server, in microseconds. */
  cpu: number
  ownCpu: number
  /** Commands, including those inside scripts, as Redis counts them. */
  commands: Record<string, number>
}

/** A variant with its rounds in all of its processes. */
export interface Measured { variant: string, servers: Server[], rounds: Round[] }

/** Reads a number from the environment: a duration, a number of rounds or of operations. */
export function setting (name: string, fallback: number): number {
  return Number(process.env[name] ?? fallback)
}

/** The core that is reserved for servers; undefined if they share all cores. */
let ownCore: number | undefined

/**
 * Reserves a core for the servers, and moves this process and its other children to the remaining ones, because in
 * production Redis and the load run on other machines. It needs Linux and two cores; otherwise nothing changes.
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

/** @param file - a server of this folder, which prints its address when it listens */
export async function startServer (file: string, args: string[]): Promise<Server> {
  const execArgv = ['--import', 'tsx']
  const options = ownCore === undefined
    ? { execArgv }
    : { execPath: 'taskset', execArgv: ['-c', String(ownCore), process.execPath, ...execArgv] }
  const child = fork(new URL(file, import.meta.url), args, options)
  const ended = once(child, 'exit').then(
    ([code]) => { throw new Error(`${file} ${args.join(' ')} ended with ${code}`) }
  )
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

/** @param clients - the headers of each client: connections alternate between some of them */
async function shoot (url: string, seconds: number, clients: readonly Headers[] = []) {
  let next = 0
  const setupClient = (client: autocannon.Client) => {
    const connection = next++ % CONNECTIONS
    client.setRequests(clients.filter((_, i) => i % CONNECTIONS === connection).map(headers => ({ headers })))
  }
  return await autocannon({
    url, connections: CONNECTIONS, duration: seconds, ...(clients.length > 0 && { setupClient })
  })
}

/** Returns the CPU time of a server in microseconds. */
export async function ownCpu (child: ChildProcess): Promise<number> {
  child.send('cpu')
  const [{ cpu }] = await once(child, 'message')
  return cpu
}

async function statistics (redis: Redis) {
  const info = await redis.info('stats', 'cpu', 'commandstats')
  const read = (name: string) => Number(new RegExp(`${name}:([\\d.]+)`).exec(info)?.[1])
  const commands = new Map(
    [...info.matchAll(/cmdstat_([^:]+):calls=(\d+)/g)].map(([, name = '', calls]) =>
      [name.toUpperCase(), Number(calls)])
  )
  commands.delete('INFO')
  return {
    bytesIn: read('total_net_input_bytes'),
    bytesOut: read('total_net_output_bytes'),
    cpu: read('used_cpu_user') + read('used_cpu_sys'),
    commands
  }
}

/** Runs one round of load. @param redis - the server whose work is counted */
export async function load (
  redis: Redis, { child, url }: Server, path: string, seconds: number, clients?: readonly Headers[]
): Promise<Round> {
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
    commands: Object.fromEntries(
      [...after.commands].map(([name, calls]) => [name, each(calls - (before.commands.get(name) ?? 0))])
    )
  }
}

export interface Plan {
  redis: Redis
  variants: readonly string[]
  start: (variant: string) => Promise<Server>
  /** The number of processes per variant, because two of one variant differ. */
  processes: number
  rounds: number
  seconds: number
  path?: string
  /** The headers of the clients, such as the cookie of a session. */
  clientsOf?: (url: string) => Promise<Headers[]>
}

/** Loads all variants alternately, so that the machine's drift affects all of them. Their processes keep running. */
export async function takeTurns (
  { redis, variants, start, processes, rounds, seconds, path = '', clientsOf }: Plan
): Promise<Measured[]> {
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
    // Forward and backward, so that no variant is always first.
    for (const { server, clients, measured } of round % 2 === 0 ? turns : [...turns].reverse()) {
      measured.rounds.push(await load(redis, server, path, seconds, clients))
    }
  }
  return measured
}

/** Returns a figure of a variant: the median of its rounds. */
export function figure (measured: readonly Measured[], variant: string, pick: (round: Round) => number): number {
  return median(measured.find(one => one.variant === variant)?.rounds.map(pick) ?? [])
}

/** Returns the first columns of the tables. @param beside - the variants that shares are computed from */
export function columnsOf (
  measured: readonly Measured[], { variant, rounds }: Measured, beside: readonly string[]
): Row {
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
  return Object.entries(commands).reduce(
    (sum, [name, count]) => name.startsWith('CLIENT') || name === 'PING' ? sum : sum + count, 0
  )
}

/** Returns the commands of a request, with their numbers. */
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

/** Prints a table, and passes it to `bench/all.ts` if that runs the benchmark. */
export function report (title: string, rows: readonly Row[]): void {
  console.log(`\n${title}\n\n${markdown(rows)}`)
  process.send?.({ title, rows })
}
