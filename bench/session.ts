import { fork } from 'node:child_process'
import { once } from 'node:events'
import autocannon from 'autocannon'
import { Redis } from 'ioredis'
import { startRedis } from '../test/helpers/redis-server.js'
import { stopAll } from '../test/helpers/registry.js'
import { races, type Server } from './session-races.js'

// Requests a second and latency of one Fastify process whose clients are logged in, each with a cookie of its own, beside
// `@fastify/session` on a store of whole sessions in the same run: rounds take turns, and processes, as two of one variant
// differ; the median of all is told, as a share of the bare route.
const ROUNDS = Number(process.env['ROUNDS'] ?? 3)
const PROCESSES = Number(process.env['PROCESSES'] ?? 2)
const SECONDS = Number(process.env['SECONDS'] ?? 2)
const RACES = Number(process.env['RACES'] ?? 1000)
const PARTS = (process.env['PARTS'] ?? 'races,load').split(',')
const CONNECTIONS = 50
const SESSION_VARIANTS = ['this suite', '@fastify/session, rolling', '@fastify/session, rolling: false']
const VARIANTS = ['bare', 'bare + GET', ...SESSION_VARIANTS]

interface Round { rate: number, p50: number, p99: number, bytesIn: number, bytesOut: number, cpu: number, commands: Record<string, number>, failed: number }

const redis = await startRedis()
const admin = new Redis(redis.url)
const median = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0

async function start (variant: string): Promise<Server> {
  const child = fork(new URL('./session-server.ts', import.meta.url), [variant, redis.url], { execArgv: ['--import', 'tsx'] })
  const [url] = await once(child, 'message')
  return { child, url }
}

/** @returns the cookie, '' where the variant has none */
async function logIn (url: string, user: string): Promise<string> {
  const response = await fetch(`${url}/login/${user}`)
  return response.headers.get('set-cookie')?.split(';')[0] ?? ''
}

async function statistics () {
  const info = await admin.info('stats', 'cpu', 'commandstats')
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

async function shoot (url: string, cookies: readonly string[], seconds: number) {
  let next = 0
  return await autocannon({
    url,
    connections: CONNECTIONS,
    duration: seconds,
    setupClient: client => { client.setHeaders({ cookie: cookies[next++ % cookies.length] ?? '' }) }
  })
}

async function load (url: string, cookies: readonly string[]): Promise<Round> {
  await shoot(url, cookies, 1)
  const before = await statistics()
  const { requests, latency, errors, non2xx } = await shoot(url, cookies, SECONDS)
  const after = await statistics()
  const each = (grown: number) => grown / requests.total
  return {
    rate: requests.average,
    p50: latency.p50,
    p99: latency.p99,
    bytesIn: each(after.bytesIn - before.bytesIn),
    bytesOut: each(after.bytesOut - before.bytesOut),
    cpu: each(after.cpu - before.cpu) * 1e6,
    commands: Object.fromEntries([...after.commands].map(([name, calls]) => [name, each(calls - (before.commands.get(name) ?? 0))])),
    failed: errors + non2xx
  }
}

async function compare (path: string): Promise<void> {
  await admin.flushall()
  const servers: Array<Server & { variant: string, cookies: string[], rounds: Round[] }> = []
  for (let i = 0; i < PROCESSES; i++) {
    for (const variant of VARIANTS) {
      const server = await start(variant)
      const cookies = await Promise.all(Array.from({ length: CONNECTIONS }, (_, j) => logIn(server.url, `user-${j}`)))
      servers.push({ ...server, variant, cookies, rounds: [] })
    }
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const { url, cookies, rounds } of servers) rounds.push(await load(url + path, cookies))
  }
  const roundsOf = (variant: string) => servers.filter(server => server.variant === variant).flatMap(({ rounds }) => rounds)
  const rateOf = (variant: string) => median(roundsOf(variant).map(({ rate }) => rate))
  printTable(VARIANTS.map(variant => {
    const rounds = roundsOf(variant)
    const of = (pick: (round: Round) => number) => median(rounds.map(pick))
    return {
      [path]: variant,
      'requests/s': Math.round(rateOf(variant)),
      'of bare': (rateOf(variant) / rateOf('bare')).toFixed(2),
      'of bare + GET': (rateOf(variant) / rateOf('bare + GET')).toFixed(2),
      'p50 ms': of(({ p50 }) => p50),
      'p99 ms': of(({ p99 }) => p99),
      'bytes to Redis': Math.round(of(({ bytesIn }) => bytesIn)),
      'bytes from Redis': Math.round(of(({ bytesOut }) => bytesOut)),
      'Redis CPU µs': of(({ cpu }) => cpu).toFixed(1),
      commands: commandsOf(rounds),
      failed: rounds.reduce((sum, { failed }) => sum + failed, 0)
    }
  }))
  for (const { child } of servers) child.kill()
}

/** Those inside a script too, as Redis counts them. */
function commandsOf (rounds: readonly Round[]): string {
  const names = [...new Set(rounds.flatMap(({ commands }) => Object.keys(commands)))]
  const counted = names.map(name => ({ name, count: median(rounds.map(({ commands }) => commands[name] ?? 0)) }))
  return counted.filter(({ count }) => count > 0.05).map(({ name, count }) => `${count.toFixed(1)} ${name}`).join(', ')
}

function printTable (rows: ReadonlyArray<Record<string, string | number>>): void {
  const names = Object.keys(rows[0] ?? {})
  const line = (cells: readonly unknown[]) => `| ${cells.join(' | ')} |`
  console.log(['', line(names), line(names.map(() => '---')), ...rows.map(row => line(Object.values(row)))].join('\n'))
}

if (PARTS.includes('races')) {
  const rows = []
  for (const variant of SESSION_VARIANTS) {
    await admin.flushall()
    const servers = [await start(variant), await start(variant), await start(variant)] as const
    rows.push({ [`of ${RACES}`]: variant, ...await races(servers, logIn, RACES) })
    for (const { child } of servers) child.kill()
  }
  printTable(rows)
}
if (PARTS.includes('load')) for (const path of ['/read', '/write']) await compare(path)
admin.disconnect()
await stopAll()
