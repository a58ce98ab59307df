import { Redis } from 'ioredis'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import {
  columnsOf, commandsOf, commandsText, CONNECTIONS, giveServersACore, median, report, setting, startServer, stopServers,
  takeTurns
} from './run.js'
import { races } from './session-races.js'

// Measures requests per second and latency of one Fastify process whose clients are logged in, each with its own
// cookie, with `@fastify/session` on a store of whole sessions in the same run. Rounds alternate, and so do processes,
// because two of one variant differ. The table has the median of all, as a share of the bare route.
const RACES = setting('RACES', 1000)
const PARTS = (process.env['PARTS'] ?? 'races,load').split(',')
const SESSION_VARIANTS = ['this suite', '@fastify/session, rolling', '@fastify/session, rolling: false']
const VARIANTS = ['bare', 'bare + GET', ...SESSION_VARIANTS]

giveServersACore()
const redis = await startRedis()
const admin = new Redis(redis.url)
const start = (variant: string) => startServer('./session-server.ts', [variant, redis.url])

/** @returns the cookie; '' if the variant has none */
async function logIn (url: string, user: string): Promise<string> {
  const response = await fetch(`${url}/login/${user}`)
  return response.headers.get('set-cookie')?.split(';')[0] ?? ''
}

async function compare (path: string): Promise<void> {
  await admin.flushall()
  const measured = await takeTurns({
    redis: admin,
    variants: VARIANTS,
    start,
    processes: setting('PROCESSES', 2),
    rounds: setting('ROUNDS', 3),
    seconds: setting('SECONDS', 2),
    path,
    clientsOf: url =>
      Promise.all(Array.from({ length: CONNECTIONS }, async (_, i) => ({ cookie: await logIn(url, `user-${i}`) })))
  })
  report(`Session, ${path}`, measured.map(one => {
    const { rounds } = one
    const of = (pick: (round: typeof rounds[number]) => number) => median(rounds.map(pick))
    return {
      ...columnsOf(measured, one, ['bare', 'bare + GET']),
      'bytes to Redis': Math.round(of(({ bytesIn }) => bytesIn)),
      'bytes from Redis': Math.round(of(({ bytesOut }) => bytesOut)),
      'Redis CPU µs': of(({ cpu }) => cpu).toFixed(1),
      'CPU µs': of(({ ownCpu }) => ownCpu).toFixed(0),
      'Redis commands': of(commandsOf).toFixed(1),
      commands: commandsText(rounds),
      failed: rounds.reduce((sum, { failed }) => sum + failed, 0)
    }
  }))
  await stopServers(measured.flatMap(({ servers }) => servers))
}

if (PARTS.includes('races')) {
  const rows = []
  for (const variant of SESSION_VARIANTS) {
    await admin.flushall()
    const servers = [await start(variant), await start(variant), await start(variant)] as const
    rows.push({ variant, ...await races(servers, logIn, RACES) })
    await stopServers(servers)
  }
  report(`What went wrong, of ${RACES} races`, rows)
}
if (PARTS.includes('load')) for (const path of ['/read', '/write']) await compare(path)
admin.disconnect()
await stopAll()
