// The client under test. By default it is one of ioredis, and the lanes `node-redis` and `upstash` run the same tests with another.
import { Cluster, Redis } from 'ioredis'
import type { Test } from 'tap'
import { ioredisDriver } from '../../../plugins/redis/drivers/ioredis.js'
import type { RedisPluginOptions } from '../../../plugins/redis/index.js'
import { portOf } from '../../../plugins/shared/redis/client.js'
import type { RedisPort } from '../../../plugins/shared/redis/port.js'
import { fromUpstash, type UpstashClient } from '../../../plugins/upstash/index.js'
import { startUpstashRest, type UpstashRest } from '../servers/upstash-rest.js'

export const DRIVER = (process.env['TEST_DRIVER'] ?? 'ioredis') as 'ioredis' | 'node-redis' | 'upstash'

/** The address of a server, or of the nodes of a Cluster. */
export type Address =
  | { readonly url: string }
  | { readonly startupNodes: ReadonlyArray<{ host: string, port: number }> }

/** Returns the options with which the plugin `redis` has a client of the library under test. Upstash has no Cluster. */
export async function byDriver (connection: RedisPluginOptions): Promise<RedisPluginOptions> {
  if (DRIVER === 'node-redis') return { ...connection, driver: DRIVER }
  if (DRIVER === 'upstash' && connection.url !== undefined) return { client: await upstashClient(connection.url) }
  return connection
}

/** Opens the test's own client, which is of ioredis. It connects with the first command, and is closed with the test. */
export function openClient (t: Test, address: Address): Redis | Cluster {
  const client = 'url' in address ? new Redis(address.url, { lazyConnect: true }) : new Cluster([...address.startupNodes], { lazyConnect: true })
  // Tests break servers.
  client.on('error', () => {})
  t.teardown(() => ioredisDriver.disconnect(client))
  return client
}

/** Opens a client of the library under test, and closes it with the test. @returns its port */
export async function openPort (t: Test, address: Address): Promise<RedisPort> {
  if (DRIVER === 'upstash' && 'url' in address) return portOf(await upstashClient(address.url))
  if (DRIVER !== 'node-redis') {
    const client = openClient(t, address)
    await client.connect()
    return portOf(client)
  }
  // Its modules take 0.3 s to load.
  const { createClient, createCluster } = await import('redis')
  const client = 'url' in address
    ? createClient({ url: address.url })
    : createCluster({ rootNodes: address.startupNodes.map(({ host, port }) => ({ url: `redis://${host}:${port}` })) })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { if (client.isOpen) client.destroy() })
  return portOf(client)
}

const rests = new Map<string, Promise<UpstashRest>>()

async function upstashClient (redisUrl: string): Promise<UpstashClient> {
  const rest = rests.get(redisUrl) ?? startUpstashRest(redisUrl)
  rests.set(redisUrl, rest)
  const { url, token } = await rest
  return fromUpstash({ url, token })
}
