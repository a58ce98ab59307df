import Fastify, { type FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import { redis } from '../plugins/index.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { until } from '../test/helpers/app/until.js'
import type { Kind, Work } from './scale-kinds.js'

/** The cost of one operation for Redis. */
export interface Cost {
  name: string
  /** Commands, including those inside scripts. */
  commands: number
  /** One operation at a time, so that none shares a packet. */
  aloneMicros: number
  /** 50 concurrent operations of one process. */
  togetherMicros: number
}

/** The data of a number of users. */
export interface Size {
  users: number
  keys: number
  bytes: number
  /** The cost of creating the data that was missing at the previous size, per operation, 50 at a time. */
  micros: number
}

export interface Figures {
  kind: Kind
  sizes: Size[]
  costs: Cost[]
}

export interface MeasureOptions {
  /** The numbers of users at which it counts, ascending. */
  counts: readonly number[]
  /** The number of operations per cost; 0 measures none. */
  operations: number
  /** Called while all data is there. */
  inspect?: (admin: Redis) => Promise<unknown>
}

/** Figures of Redis. */
export interface Spent { micros: number, commands: number }

const TOGETHER = 50
const ROUNDS = 3

export async function measure (kind: Kind, { counts, operations, inspect }: MeasureOptions): Promise<Figures> {
  const server = await startRedis()
  const admin = server.client()
  const apps: FastifyInstance[] = []
  const open = async () => {
    const app = Fastify({ logger: { level: 'error' } })
    apps.push(app)
    await app.register(redis, { url: server.url, prefix: 'shop', commandTimeout: '30s' })
    return app
  }
  try {
    const work = await kind.start(open, counts.at(-1) ?? 0)
    for (const app of apps) await app.ready()
    const sizes = await grow(admin, work, counts)
    await inspect?.(admin)
    const costs = operations > 0 ? await costsOf(admin, kind, work, counts.at(-1) ?? 0, operations) : []
    return { kind, sizes, costs }
  } finally {
    await Promise.all(apps.map(app => app.close()))
    await server.stop()
  }
}

async function grow (admin: Redis, work: Work, counts: readonly number[]): Promise<Size[]> {
  const empty = await memoryOf(admin)
  const sizes: Size[] = []
  let made = 0
  for (const users of counts) {
    const first = made
    const before = await statisticsOf(admin)
    for (let time = 0; time < (work.times ?? 1); time++) await each(users - first, TOGETHER, i => work.make(first + i))
    await settle(admin, work)
    const { micros } = await statisticsOf(admin)
    made = users
    sizes.push({
      users,
      keys: await admin.dbsize(),
      bytes: await memoryOf(admin) - empty,
      micros: (micros - before.micros) / ((users - first) * (work.times ?? 1))
    })
  }
  return sizes
}

async function costsOf (admin: Redis, { made }: Kind, work: Work, users: number, operations: number): Promise<Cost[]> {
  await work.begin?.()
  let next = users
  const costs: Cost[] = []
  // New users first: operations on existing ones find their data.
  for (const [name, use] of Object.entries({ [made]: () => work.make(next++), ...work.uses })) {
    const cost = async (count: number, atOnce: number): Promise<Spent> => {
      await settle(admin, work)
      const before = await statisticsOf(admin)
      await each(count, atOnce, i => use(i % users))
      await work.settle?.()
      const after = await statisticsOf(admin)
      return { micros: (after.micros - before.micros) / count, commands: (after.commands - before.commands) / count }
    }
    const together: Spent[] = []
    const alone: Spent[] = []
    for (let round = 0; round < ROUNDS; round++) {
      together.push(await cost(operations, TOGETHER))
      alone.push(await cost(Math.ceil(operations / 4), 1))
    }
    const micros = (costs: readonly Spent[]) => median(costs.map(cost => cost.micros))
    costs.push({
      name,
      commands: median(alone.map(cost => cost.commands)),
      aloneMicros: micros(alone),
      togetherMicros: micros(together)
    })
  }
  return costs
}

function median (values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN
}

/** Runs a number of operations, with a number of concurrent ones. */
async function each (count: number, atOnce: number, operation: (i: number) => Promise<unknown>): Promise<void> {
  let next = 0
  const work = async () => { while (next < count) await operation(next++) }
  await Promise.all(Array.from({ length: atOnce }, work))
}

/** Resolves when background work has ended: the number of keys has not changed for a while. */
async function settle (admin: Redis, work: Work): Promise<void> {
  await work.settle?.()
  let [last, since] = [-1, 0]
  await until('Redis has come to rest', async () => {
    const keys = await admin.dbsize()
    if (keys !== last) [last, since] = [keys, performance.now()]
    return performance.now() - since > 200
  }, 60_000)
}

/** Memory without that of connections. */
async function memoryOf (admin: Redis): Promise<number> {
  const info = await admin.info('memory')
  return numberIn(info, 'used_memory') - numberIn(info, 'mem_clients_normal')
}

/** CPU time of the thread that runs commands: the other threads are not the bottleneck. */
export async function statisticsOf (admin: Redis): Promise<Spent> {
  const info = await admin.info('cpu', 'commandstats')
  const seconds = numberIn(info, 'used_cpu_user_main_thread') + numberIn(info, 'used_cpu_sys_main_thread')
  const calls = [...info.matchAll(
    /^cmdstat_(?!info|dbsize|client)[^:]+:calls=(\d+)/gm
  )].map(([, count]) => Number(count))
  return { micros: seconds * 1e6, commands: calls.reduce((sum, count) => sum + count, 0) }
}

function numberIn (info: string, name: string): number {
  const value = Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(info)?.[1])
  if (Number.isNaN(value)) throw new Error(`INFO has no ${name}`)
  return value
}
