// Load on HTTP servers in rounds.
import autocannon from 'autocannon'
import type { Redis } from 'ioredis'
import { alternate } from './alternate.js'
import type { Row } from './markdown.js'
import type { Options } from './options.js'
import { redisWork, sumOf, workEach } from './redis-work.js'
import type { Round, Variant } from './results.js'
import { cpuOf, type Server } from './server.js'
import { median } from './statistics.js'

export const CONNECTIONS = 100

/** A round of load; figures of Redis are for a request. */
export interface HttpRound extends Round {
  throughput: number
  cpu: number
  p50: number
  p99: number
  bytesIn: number
  bytesOut: number
  redisMicros: number
  commands: Record<string, number>
}

/** A variant with its rounds in all of its processes. */
export interface Measured extends Variant<HttpRound> { servers: Server[] }

export type Headers = Record<string, string>

export interface Plan {
  options: Options
  /** The server whose work is counted. */
  redis: Redis
  variants: readonly string[]
  start: (variant: string) => Promise<Server>
  path?: string
  /** The headers of the clients, such as the cookie of a session. */
  clientsOf?: (url: string) => Promise<Headers[]>
  /** A status that is no failure, beside 2xx. */
  accepted?: number
}

interface Target { server: Server, url: string, clients: Headers[], one: Measured }

/** Loads all variants alternately. Their processes keep running. */
export async function measure (plan: Plan): Promise<Measured[]> {
  const { options: { rounds, seconds, variants: chosen }, variants, redis, accepted } = plan
  const measured = variants.filter(variant => chosen?.includes(variant) ?? true)
    .map(variant => ({ variant, servers: [], rounds: [] }))
  const targets = await startAll(plan, measured)
  for (const target of targets) await shoot(target, 1)
  await alternate(targets, rounds, async target => {
    target.one.rounds.push(await load(redis, target, seconds, accepted))
  })
  return measured
}

async function startAll (
  { options, start, clientsOf, path = '' }: Plan, measured: readonly Measured[]
): Promise<Target[]> {
  const targets: Target[] = []
  for (let i = 0; i < options.processes; i++) {
    for (const one of measured) {
      const server = await start(one.variant)
      one.servers.push(server)
      targets.push({ server, url: server.url + path, clients: await clientsOf?.(server.url) ?? [], one })
    }
  }
  return targets
}

/** Each connection alternates between some of the clients. */
async function shoot ({ url, clients }: Target, seconds: number): Promise<autocannon.Result> {
  let next = 0
  const setupClient = (client: autocannon.Client) => {
    const connection = next++ % CONNECTIONS
    client.setRequests(clients.filter((_, i) => i % CONNECTIONS === connection).map(headers => ({ headers })))
  }
  return await autocannon({
    url, connections: CONNECTIONS, duration: seconds, ...(clients.length > 0 && { setupClient })
  })
}

async function load (redis: Redis, target: Target, seconds: number, accepted = 200): Promise<HttpRound> {
  const { server } = target
  const [before, cpuBefore] = [await redisWork(redis), await cpuOf(server)]
  const result = await shoot(target, seconds)
  const [after, cpuAfter] = [await redisWork(redis), await cpuOf(server)]
  const { requests, latency } = result
  const { micros: redisMicros, ...work } = workEach(before, after, requests.total)
  return {
    throughput: requests.average,
    cpu: (cpuAfter - cpuBefore) / requests.total,
    p50: latency.p50,
    p99: latency.p99,
    ...failuresIn(result, accepted),
    redisMicros,
    ...work
  }
}

function failuresIn ({ requests, errors, statusCodeStats = {} }: autocannon.Result, accepted: number): Round {
  // A server that does not respond has no errors within a round.
  if (requests.total === 0) return { failed: 1, reasons: ['no response'] }
  const failed = Object.entries(statusCodeStats).filter(
    ([status]) => !status.startsWith('2') && status !== String(accepted)
  )
  const count = failed.reduce((sum, [, { count = 0 }]) => sum + count, 0)
  const reasons = failed.map(([status]) => `status ${status}`)
  return { failed: errors + count, reasons: errors > 0 ? [...reasons, 'no connection'] : reasons }
}

/** Returns the columns of latency and Redis. */
export function httpColumns ({ rounds }: Variant<HttpRound>): Row {
  const of = (pick: (round: HttpRound) => number) => median(rounds.map(pick))
  return {
    'p50 ms': of(({ p50 }) => p50),
    'p99 ms': of(({ p99 }) => p99),
    'bytes to Redis': Math.round(of(({ bytesIn }) => bytesIn)),
    'bytes from Redis': Math.round(of(({ bytesOut }) => bytesOut)),
    'Redis CPU µs': of(({ redisMicros }) => redisMicros).toFixed(1),
    'Redis commands': of(({ commands }) => sumOf(commands)).toFixed(1),
    commands: commandsText(rounds.map(({ commands }) => commands))
  }
}

/** Returns the commands of an operation, with their numbers. */
export function commandsText (rounds: ReadonlyArray<Record<string, number>>): string {
  const names = [...new Set(rounds.flatMap(commands => Object.keys(commands)))]
  const counted = names.map(name => ({ name, count: median(rounds.map(commands => commands[name] ?? 0)) }))
  return counted.filter(({ count }) => count > 0.05).map(({ name, count }) => `${count.toFixed(1)} ${name}`).join(', ')
}
