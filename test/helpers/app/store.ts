// The stores of plugins by name, so that one contract of tests runs on each.
import { Cluster, Redis } from 'ioredis'
import type { Test } from 'tap'
import { portOf, type RedisClient } from '../../../plugins/shared/redis/client.js'
import type { RedisNode, RedisPort } from '../../../plugins/shared/redis/port.js'
import { createTestClock, type TestClock } from '../../../plugins/testing/index.js'
import { sharedCluster, sharedRedis } from '../servers/shared.js'
import { DRIVER, openClient, openPort } from './driver.js'

export type StoreName = 'memory' | 'redis' | 'cluster'

export interface TestStore {
  readonly name: StoreName
  /** The test's own client, of ioredis. Undefined for the memory store. */
  readonly client: Redis | Cluster | undefined
  /** The client under test, as stores take it. */
  readonly port: RedisPort | undefined
  /** A prefix that no other test has. */
  readonly prefix: string
  /**
   * Stands still until the test advances it. Keys under the prefix then age by the same time, so that TTLs in Redis follow this clock as well.
   */
  readonly clock: TestClock
}

let prefixes = 0

/** Returns a prefix of keys that no other test of this file has. */
export function newPrefix (): string {
  return `t${process.pid}-${++prefixes}`
}

/** Calls `define` for each of the stores that the client under test can have: its tests apply to all of them. */
export function forEachStore<N extends StoreName> (names: readonly N[], define: (name: N) => void): void {
  for (const name of names) if (isStoreOfDriver(name)) define(name)
}

export async function openStore (t: Test, name: StoreName, { clock = createTestClock(), prefix = newPrefix() } = {}): Promise<TestStore> {
  if (name === 'memory') return { name, client: undefined, port: undefined, prefix, clock }
  const address = name === 'redis' ? await sharedRedis() : await sharedCluster()
  const client = openClient(t, address)
  await client.connect()
  ageKeys(t, clock, client, prefix)
  return { name, client, port: await openPort(t, address), prefix, clock }
}

/** The lane of another client leaves the memory store out, which has none. Upstash has no Cluster. */
function isStoreOfDriver (name: StoreName): boolean {
  return DRIVER === 'ioredis' || name === 'redis' || (name === 'cluster' && DRIVER === 'node-redis')
}

const AGE = `
local cursor = '0'
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local ttl = redis.call('PTTL', key)
    if ttl >= 0 then redis.call('PEXPIRE', key, ttl - ARGV[2]) end
  end
until cursor == '0'
`

/**
 * Makes the keys under a prefix age with the clock.
 *
 * @param answers - whether the server responds now; while it does not, its keys do not age, and catch up afterwards
 */
export function ageKeys (t: Test, clock: TestClock, client: Redis | Cluster, prefix: string, answers = () => true): void {
  let due = 0
  const stop = clock.onStep(async ms => {
    due += ms
    if (!answers()) return
    await Promise.all((await mastersOf(client)).map(node => node.eval(AGE, 0, `${prefix}:*`, due)))
    due = 0
  })
  t.teardown(stop)
}

/** Returns a client for each server: the masters of a Cluster. */
export async function mastersOf (client: Redis | Cluster): Promise<Redis[]> {
  if (!(client instanceof Cluster)) return [client]
  // The client knows no nodes before.
  if (client.status === 'wait') await client.connect()
  return client.nodes('master')
}

/** How long a server that responds may take on a busy machine, in real milliseconds. */
const REPLY_MS = 3000

/**
 * Waits until the replies of a responsive server have been read before the clock advances, however busy the machine is. Otherwise deadlines of
 * commands would pass, because the clock is independent of the server.
 */
export function waitForReplies (t: Test, clock: TestClock, clients: () => RedisClient[], answers = () => true): void {
  const pending = new Set<RedisNode>()
  const stop = clock.onStep(async () => {
    if (!answers()) return
    const nodes = clients().map(portOf).flatMap(port => port.topology?.nodes() ?? [port])
    await Promise.all(nodes.filter(node => node.status === 'ready' && !pending.has(node)).map(async node => {
      pending.add(node)
      const replied = node.send('ping', []).catch(() => {}).finally(() => pending.delete(node))
      // A connection that a test has cut off or slowed down is not waited for again.
      await Promise.race([replied, new Promise(resolve => setTimeout(resolve, REPLY_MS).unref())])
    }))
  })
  t.teardown(stop)
}
