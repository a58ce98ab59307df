import { Redis } from 'ioredis'
import { startProxy } from '../tools/servers/proxy.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { CONNECTIONS, httpColumns, measure, type Headers } from './frame/http-load.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'
import { giveServersACore, startServer, stopServers } from './frame/server.js'
import { median } from './frame/statistics.js'

// Measures all plugins on one request: a rate limit by address, the session of a user, and the user's own page from the
// cache. The peers are `@fastify/rate-limit`, `@fastify/session` on a store of whole sessions, and `bentocache`,
// composed in the same way on the same Redis. Each connection serves several users with their own addresses, so
// concurrent requests share hardly anything.
const DELAY_MS = 20
const SEQUENTIAL = 20
const USERS = 1000
const VARIANTS = [
  'bare', 'bare + GET', 'this suite', 'this suite, early', 'this suite, without L1', 'this suite, without L1, early',
  'this suite, memory', 'peers', 'peers, without L1', 'peers, rolling: false', 'peers, rolling: false, without L1',
  'peers, memory'
]

const options = readOptions(['trips', 'load'], ['load'])
const report = new Report(options.isQuick)
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

/** Measures how often one request waits for Redis: its additional time with delayed replies, divided by the delay. */
async function roundTrips (): Promise<void> {
  const rows = []
  const proxy = await startProxy(server.port)
  for (const variant of VARIANTS) {
    await admin.flushall()
    const one = await startServer('whole-server.ts', [variant, `redis://${proxy.host}:${proxy.port}`])
    const headers = await logIn(one.url, 0)
    const prompt = await timed(one.url, headers)
    proxy.delay(DELAY_MS)
    const delayed = await timed(one.url, headers)
    proxy.delay(0)
    rows.push({ variant, 'Redis round trips': ((delayed - prompt) / DELAY_MS).toFixed(1) })
    await stopServers([one])
  }
  await proxy.stop()
  report.table('All together: how often a request waits for Redis', rows)
}

async function timed (url: string, headers: Headers): Promise<number> {
  for (let i = 0; i < 5; i++) await ask(url, headers)
  const times = []
  for (let i = 0; i < SEQUENTIAL; i++) times.push(await ask(url, headers))
  return median(times.filter(ms => ms !== undefined))
}

async function logInAll (url: string): Promise<Headers[]> {
  const clients = []
  for (let i = 0; i < USERS; i += CONNECTIONS) {
    clients.push(...await Promise.all(Array.from({ length: CONNECTIONS }, (_, j) => logIn(url, i + j))))
  }
  return clients
}

async function load (): Promise<void> {
  await admin.flushall()
  const measured = await measure({
    options,
    redis: admin,
    variants: VARIANTS,
    start: variant => startServer('whole-server.ts', [variant, server.url]),
    path: '/orders',
    clientsOf: logInAll
  })
  report.compare('All together', measured, ['bare', 'bare + GET'], httpColumns)
  await stopServers(measured.flatMap(({ servers }) => servers))
}

if (options.parts.has('trips')) await roundTrips()
if (options.parts.has('load')) await load()
admin.disconnect()
await stopAll()
report.end()
