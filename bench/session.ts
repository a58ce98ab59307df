import { Redis } from 'ioredis'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { CONNECTIONS, httpColumns, measure } from './frame/http-load.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'
import type { Variant } from './frame/results.js'
import { giveServersACore, startServer, stopServers } from './frame/server.js'
import { races } from './session-races.js'

// Measures requests per second, CPU and latency of one Fastify process whose clients are logged in, each with its own
// cookie, with `@fastify/session` on a store of whole sessions in the same run.
const RACES = 1000
const USERS = 1000
const SESSION_VARIANTS = ['this suite', '@fastify/session, rolling', '@fastify/session, rolling: false']
const VARIANTS = ['bare', 'bare + GET', ...SESSION_VARIANTS]

const options = readOptions(['races', 'memory', 'load'], ['memory', 'load'])
const report = new Report(options.isQuick)
giveServersACore()
const redis = await startRedis()
const admin = new Redis(redis.url)
const start = (variant: string) => startServer('session-server.ts', [variant, redis.url])

/** @returns the cookie; '' if the variant has none */
async function logIn (url: string, user: string): Promise<string> {
  const response = await fetch(`${url}/login/${user}`)
  return response.headers.get('set-cookie')?.split(';')[0] ?? ''
}

async function compare (path: string): Promise<void> {
  await admin.flushall()
  const measured = await measure({
    options,
    redis: admin,
    variants: VARIANTS,
    start,
    path,
    clientsOf: url =>
      Promise.all(Array.from({ length: CONNECTIONS }, async (_, i) => ({ cookie: await logIn(url, `user-${i}`) })))
  })
  report.compare(`Session, ${path}`, measured, ['bare', 'bare + GET'], httpColumns)
  await stopServers(measured.flatMap(({ servers }) => servers))
}

async function usedMemory (): Promise<number> {
  const info = await admin.info('memory')
  const read = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1])
  return read('used_memory') - read('mem_clients_normal')
}

/** Returns what a user who is logged in takes of Redis's memory, with 300 bytes of data. */
async function bytesOf (variant: string): Promise<number> {
  await admin.flushall()
  const server = await start(variant)
  await logInSmall(server.url, 0)
  const before = await usedMemory()
  for (let first = 50; first <= USERS; first += 50) await logInSmall(server.url, first)
  const grown = await usedMemory() - before
  await stopServers([server])
  return grown / USERS
}

/** Logs in 50 users, the first of whom are not measured, as Redis loads scripts for them. */
async function logInSmall (url: string, first: number): Promise<void> {
  const responses = await Promise.all(Array.from({ length: 50 }, (_, i) => fetch(`${url}/login-small/user-${first + i}`)))
  if (responses.some(({ ok }) => !ok)) throw new Error('a login failed')
}

async function memory (): Promise<void> {
  const variants: Variant[] = []
  for (const variant of SESSION_VARIANTS) {
    variants.push({ variant, rounds: [{ bytes: await bytesOf(variant), failed: 0 }] })
  }
  report.add('Session, memory of Redis', variants)
}

async function race (): Promise<void> {
  const rows = []
  for (const variant of SESSION_VARIANTS) {
    await admin.flushall()
    const servers = [await start(variant), await start(variant), await start(variant)] as const
    rows.push({ variant, ...await races(servers, logIn, RACES) })
    await stopServers(servers)
  }
  report.table(`What went wrong, of ${RACES} races`, rows)
}

if (options.parts.has('races')) await race()
if (options.parts.has('memory')) await memory()
if (options.parts.has('load')) for (const path of ['/read', '/write']) await compare(path)
admin.disconnect()
await stopAll()
report.end()
