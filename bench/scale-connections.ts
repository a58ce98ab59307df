// Measures how many connections an instance opens, what an idle instance costs, and how much memory of Redis a
// connection uses.
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { cache, events, idempotency, lock, rateLimit, redis, session } from '../plugins/index.js'
import type { RedisPluginOptions } from '../plugins/redis/index.js'
import { startCluster } from '../test/helpers/servers/redis-cluster.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { until } from '../test/helpers/app/until.js'
import { statisticsOf, type Spent } from './scale-measure.js'

export interface Carried {
  name: string
  single: number
  /** The figures of each node. */
  cluster: number[]
  /** The cost of an idle instance for one server per second, without the work that the server does by itself. */
  idle: Spent
}

// A busy machine must not lead to timeouts.
const timeout = '10s'
const RESTING_MS = 5000

/** Uses each plugin so that it opens all of its connections. */
const USERS: Record<string, (app: FastifyInstance) => Promise<unknown>> = {
  'redis alone; with session, idempotency': async app => {
    await app.register(session, { secret: 'of the bench, thirty-two characters or more', timeout })
    await app.register(idempotency, { timeout })
  },
  'and cache': async app => await app.register(cache, { ttl: '1m', unkeyed: false, timeout }),
  'and rate-limit': async app => await app.register(rateLimit, { global: false, timeout }),
  'and events, with subscribers': async app => {
    await app.register(events, { timeout })
    await app.events.subscribe('order:*', () => {})
    await app.events.subscribe('*', () => {})
  },
  'and locks, once a caller has waited': async app => {
    await app.register(lock, { timeout })
    const held = await app.locks.acquire('a')
    const waits = app.locks.using('a', { wait: '10s' }, () => {})
    await sleep(200)
    await held.release()
    await waits
  },
  'and a consumer of a stream': async app => {
    await app.events.stream('orders').consume({ group: 'mail', handler: () => {} })
  },
  'and write-behind': async app => {
    await app.cache.writeBehind('orders', { write: () => {} }).add('order:1', 1)
  }
}

export async function connections (): Promise<Carried[]> {
  const server = await startRedis()
  const cluster = await startCluster()
  const carried: Carried[] = []
  for (const [i, name] of Object.keys(USERS).entries()) {
    const uses = Object.values(USERS).slice(0, i + 1)
    const app = await build({ url: server.url, prefix: `one${i}` }, uses)
    const [single = NaN] = await atRest([server.client()])
    const busy = await spentBy(server.client())
    await app.close()
    await atRest([server.client()])
    const own = await spentBy(server.client())
    const idle = { commands: busy.commands - own.commands, micros: Math.max(0, busy.micros - own.micros) }
    const many = await build({ cluster: { nodes: cluster.startupNodes }, prefix: `many${i}` }, uses)
    carried.push({ name, single, cluster: await atRest(cluster.nodes.map(node => node.server.client())), idle })
    await many.close()
  }
  await Promise.all([server.stop(), cluster.stop()])
  return carried
}

async function build (
  target: RedisPluginOptions, uses: ReadonlyArray<(app: FastifyInstance) => Promise<unknown>>
): Promise<FastifyInstance> {
  const app = Fastify({ logger: { level: 'error' } })
  await app.register(redis, { ...target, commandTimeout: '30s' })
  for (const use of uses) await use(app)
  await app.ready()
  // Makes the client use every node of a Cluster.
  await Promise.all(Array.from({ length: 100 }, (_, i) => app.redis.get(`shop:${i}`)))
  return app
}

/** Per second. */
async function spentBy (admin: Redis): Promise<Spent> {
  const before = await statisticsOf(admin)
  await sleep(RESTING_MS)
  const after = await statisticsOf(admin)
  const seconds = RESTING_MS / 1000
  return { commands: (after.commands - before.commands) / seconds, micros: (after.micros - before.micros) / seconds }
}

/** Resolves when the number of connections has not changed for a second. */
async function atRest (admins: readonly Redis[]): Promise<number[]> {
  let [last, since]: [number[], number] = [[], 0]
  await until('no more connections are opened', async () => {
    const counts = await Promise.all(admins.map(connectionsOf))
    if (counts.join() !== last.join()) [last, since] = [counts, performance.now()]
    return performance.now() - since > 1000
  }, 30_000)
  return last
}

/** Counts connections, except those of replicas and masters, and the one that asks. */
async function connectionsOf (admin: Redis): Promise<number> {
  const list = String(await admin.client('LIST')).trim().split('\n')
  return list.filter(line => !/ flags=\w*[SM]/.test(line)).length - 1
}

/** Returns the memory of Redis per idle connection in bytes. */
export async function bytesAConnection (count: number): Promise<number> {
  const server = await startRedis()
  const admin = server.client()
  const used = async () => Number(/used_memory:(\d+)/.exec(await admin.info('memory'))?.[1])
  const before = await used()
  const clients = Array.from({ length: count }, () => new Redis(server.url, { connectionName: 'fastify-redis-suite' }))
  await Promise.all(clients.map(client => client.ping()))
  // Redis frees the buffers that a connection has not used for some seconds.
  await sleep(2 * RESTING_MS)
  const bytes = (await used() - before) / count
  for (const client of clients) client.disconnect()
  await server.stop()
  return bytes
}
