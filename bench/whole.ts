import { Redis } from 'ioredis'
import { startProxy } from '../tools/servers/proxy.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import {
  columnsOf, commandsOf, commandsText, CONNECTIONS, figure, giveServersACore, type Headers, median, report, setting,
  startServer, stopServers, takeTurns
} from './run.js'

// Measures all plugins on one request: a rate limit by address, the session of a user, and the user's own page from the
// cache. The peers are `@fastify/rate-limit`, `@fastify/session` on a store of whole sessions, and `bentocache`,
// composed in the same way on the same Redis. Each connection serves several users with their own addresses, so
// concurrent requests share hardly anything.
const DELAY_MS = 20
const SEQUENTIAL = 20
const USERS = 1000
const VARIANTS = process.env['VARIANTS']?.split(';') ?? [
  'bare', 'bare + GET', 'this suite', 'this suite, early', 'this suite, without L1', 'this suite, without L1, early',
  'this suite, memory', 'peers', 'peers, without L1', 'peers, rolling: false', 'peers, rolling: false, without L1',
  'peers, memory'
]

giveServersACore()
const server = await startRedis()
const admin = new Redis(server.url)

/** A user who is logged in, with their own address. */
async function logIn (url: string, i: number): Promise<Headers> {
  const response = await fetch(`${url}/login/user-${i}`)
  return {
    'x-forwarded-for': `10.0.${i >> 8}.${i & 255}`, cookie: response.headers.get('set-cookie')?.split(';')[0] ?? ''
  }
}

/** @returns milliseconds; undefined if it was refused, as when a deadline passes on a busy machine */
async function ask (url: string, headers: Headers): Promise<number | undefined> {
  const started = performance.now()
  const response = await fetch(`${url}/orders`, { headers })
  await response.arrayBuffer()
  return response.status === 200 ? performance.now() - started : undefined
}

/** Returns how often one request waits for Redis: its additional time with delayed replies, divided by the delay. */
async function roundTrips (): Promise<Map<string, number>> {
  const trips = new Map<string, number>()
  const proxy = await startProxy(server.port)
  for (const variant of VARIANTS) {
    await admin.flushall()
    const one = await startServer('./whole-server.ts', [variant, `redis://${proxy.host}:${proxy.port}`])
    const headers = await logIn(one.url, 0)
    const timed = async (): Promise<number> => {
      for (let i = 0; i < 5; i++) await ask(one.url, headers)
      const times = []
      for (let i = 0; i < SEQUENTIAL; i++) times.push(await ask(one.url, headers))
      return median(times.filter(ms => ms !== undefined))
    }
    const prompt = await timed()
    proxy.delay(DELAY_MS)
    trips.set(variant, (await timed() - prompt) / DELAY_MS)
    proxy.delay(0)
    await stopServers([one])
  }
  await proxy.stop()
  return trips
}

const trips = await roundTrips()
await admin.flushall()
const measured = await takeTurns({
  redis: admin,
  variants: VARIANTS,
  start: variant => startServer('./whole-server.ts', [variant, server.url]),
  processes: setting('PROCESSES', 2),
  rounds: setting('ROUNDS', 5),
  seconds: setting('SECONDS', 2),
  path: '/orders',
  async clientsOf (url) {
    const clients = []
    for (let i = 0; i < USERS; i += CONNECTIONS) {
      clients.push(
        ...await Promise.all(Array.from({ length: CONNECTIONS }, (_, j) => logIn(url, i + j)))
      )
    }
    return clients
  }
})
const rateOf = (variant: string) => figure(measured, variant, ({ rate }) => rate)

/** The peers that do the same work, in the same tiers. */
function peerOf (variant: string): string {
  return variant.startsWith('this suite') ? variant.replace('this suite', 'peers').replace(', early', '') : variant
}

report('All together: rate limit, session, cached answer', measured.map(one => {
  const { variant, rounds } = one
  const of = (pick: (round: typeof rounds[number]) => number) => median(rounds.map(pick))
  return {
    ...columnsOf(measured, one, ['bare', 'bare + GET']),
    'of peers': variant.startsWith('this suite') ? (rateOf(variant) / rateOf(peerOf(variant))).toFixed(2) : '',
    'Redis round trips': trips.get(variant)?.toFixed(1) ?? '',
    'Redis commands': of(commandsOf).toFixed(1),
    'Redis CPU µs': of(({ cpu }) => cpu).toFixed(1),
    'CPU µs': of(({ ownCpu }) => ownCpu).toFixed(0),
    commands: commandsText(rounds),
    failed: rounds.reduce((sum, { failed }) => sum + failed, 0)
  }
}))
await stopServers(measured.flatMap(({ servers }) => servers))
admin.disconnect()
await stopAll()
