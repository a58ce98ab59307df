// The stores of plugins by name, so that one contract of tests runs on each.
import { Cluster, Redis } from 'ioredis'
import type { Test } from 'tap'
import { portOf, type RedisClient } from '../../../plugins/shared/redis/client.js'
import type { RedisNode, RedisPort } from '../../../plugins/shared/redis/port.js'
import { createTestClock, type TestClock } from '../../../plugins/testing/index.js'
import { sharedCluster, sharedRedis } from '../servers/shared.js'

export type StoreName = 'memory' | 'redis' | 'cluster'

export interface TestStore {
  readonly name: StoreName
  /** Undefined for the memory store. It is closed with the test. */
  readonly client: Redis | Cluster | undefined
  /** The client as stores take it. */
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

/** Calls `define` for each of the stores: its tests apply to all of them. */
export function forEachStore<N extends StoreName> (names: readonly N[], define: (name: N) => void): void {
  for (const name of names) define(name)
}

export async function openStore (t: Test, name: StoreName, { clock = createTestClock(), prefix = newPrefix() } = {}): Promise<TestStore> {
  const client = name === 'memory' ? undefined : await connect(name)
  if (client !== undefined) {
    t.teardown(() => client.disconnect())
    ageKeys(t, clock, client, prefix)
  }
  return { name, client, port: client && portOf(client), prefix, clock }
}

async function connect (name: 'redis' | 'cluster'): Promise<Redis | Cluster> {
  const client = name === 'redis' ? new Redis((await sharedRedis()).url) : new Cluster((await sharedCluster()).startupNodes)
  await new Promise<void>((resolve, reject) => client.once('ready', resolve).once('error', reject))
  return client
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
    const nodes = client instanceof Cluster ? await mastersOf(client) : [client]
    await Promise.all(nodes.map(node => node.eval(AGE, 0, `${prefix}:*`, due)))
    due = 0
  })
  t.teardown(stop)
}

async function mastersOf (cluster: Cluster): Promise<Redis[]> {
  // The client knows no nodes before.
  if (cluster.status === 'wait') await cluster.connect()
  return cluster.nodes('master')
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
