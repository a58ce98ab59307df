import { Redis } from 'ioredis'
import type { Test } from 'tap'
import { lock, type LockPluginOptions, type Locks } from '../../../plugins/lock/index.js'
import { extendScript, releaseScript, acquireScript } from '../../../plugins/lock/scripts.js'
import { systemClock, type Clock } from '../../../plugins/shared/plugin/clock.js'
import { createTestClock } from '../../../plugins/testing/index.js'
import { ageKeys, newPrefix, type StoreName } from '../app/store.js'
import { createTestApp, type TestApp } from '../app/test-app.js'
import type { RedisServer } from '../../../tools/servers/redis-process.js'
import { startRedis } from '../servers/redis-server.js'

/** The store of locks: by name, `quorum` for three servers that the tests of a file share, or one or three servers of the test's own. */
export type LockStoreName = StoreName | 'quorum' | RedisServer | readonly RedisServer[]

export interface LockAppOptions extends Omit<LockPluginOptions, 'clock'> {
  instances?: number
  /** `'real'`: the system's. @default a clock that stands still until it is advanced, see {@link PATIENT} */
  clock?: 'real'
  /** The clock of one instance, if it is not that of the test. */
  clockOf?: (instance: number, clock: Clock) => Clock
}

export interface LockApp extends TestApp {
  /** The locks of the first instance. */
  locks: Locks
  /** The locks of each instance. */
  all: Locks[]
  /** With a quorum: the clients of each instance. */
  nodeClients: Redis[][]
  /** The name of a key in Redis. */
  keyOf: (what: 'held' | 'fence' | 'line' | 'seen', resource: string) => string
}

/**
 * The options of locks on a test's clock. No deadline passes unless the test advances the clock. A stall of the machine is far shorter than a TTL,
 * which also passes by itself in Redis.
 */
const PATIENT: LockPluginOptions = { ttl: '1 hour', wait: '1 day', timeout: '1 day' }
/** How long a lock with a TTL of an hour is certain: it counts as lost 1 % and 1 ms before it expires. */
export const CERTAIN_MS = 3_600_000 * 0.99 - 1

let quorum: Promise<RedisServer[]> | undefined

/**
 * Starts three independent servers with the scripts loaded. Without them, a node that receives a digest and then the text may run the release of
 * one lock after the request for the next; if another node hangs, that one waits for its deadline.
 */
export async function startNodes (): Promise<RedisServer[]> {
  return await Promise.all([0, 1, 2].map(async () => {
    const node = await startRedis()
    for (const { lua } of [acquireScript, extendScript, releaseScript]) await node.client().script('LOAD', lua)
    return node
  }))
}

async function nodesOf (store: LockStoreName): Promise<readonly RedisServer[] | undefined> {
  if (store === 'quorum') return await (quorum ??= startNodes())
  return Array.isArray(store) ? store as readonly RedisServer[] : undefined
}

/** Starts instances with the plugin `lock`, each with its own connections, and closes them with the test. */
export async function openLocks (t: Test, store: LockStoreName, options: LockAppOptions = {}): Promise<LockApp> {
  const { instances = 1, clock: kind, clockOf, ...given } = options
  const nodes = await nodesOf(store)
  const nodeClients: Redis[][] = []
  const prefix = newPrefix()
  const clock = createTestClock()
  for (const node of nodes ?? []) if (kind !== 'real') ageKeys(t, clock, connect(t, node.url), prefix, () => node.answers)
  const base: Clock = kind === 'real' ? systemClock : clock
  const test = await createTestApp(t, {
    // By quorum the app's own Redis only provides the prefix.
    store: nodes === undefined ? store as StoreName | RedisServer : 'redis',
    clock: kind ?? clock,
    prefix,
    instances,
    routes: async (app, instance) => {
      const clients = nodes?.map(({ url }) => connect(t, url))
      if (clients !== undefined) nodeClients.push(clients)
      await app.register(lock, {
        ...clients !== undefined && { nodes: clients },
        ...kind !== 'real' && PATIENT,
        clock: clockOf?.(instance, base) ?? base,
        ...given
      })
    }
  })
  return {
    ...test,
    locks: test.app.locks,
    all: test.apps.map(({ locks }) => locks),
    nodeClients,
    keyOf: (what, resource) => `${prefix}:lock:${what}:{${resource}}`
  }
}

/** Creates a client, and closes it with the test. */
export function connect (t: Test, url: string): Redis {
  const client = new Redis(url)
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  return client
}
