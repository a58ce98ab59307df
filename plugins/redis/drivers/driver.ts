import type { FastifyInstance } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { isRedisClient, type RedisClient } from '../../shared/redis/client.js'
import { isIoredis } from '../../shared/redis/clients/ioredis.js'
import { isUpstash } from '../../shared/redis/clients/upstash.js'
import type { RedisPluginOptions, ResolvedRedisOptions } from '../options.js'

/** The plugin's work with the clients of one library. */
export interface Driver<Client = RedisClient> {
  /** Names of options that the library has beyond those that are known here. */
  readonly optionNames: readonly string[]
  /** Creates a client, which does not connect yet. */
  create (options: ResolvedRedisOptions): Client
  /** Returns the address that the client connects to, without user and password. */
  addressOf (client: Client): string
  /**
   * Begins to connect, and waits until the client is ready.
   *
   * @throws `FST_REDIS_SUITE_REDIS_CONNECT_<KIND>` after `timeout`, or at once if waiting cannot help
   */
  waitUntilReady (client: Client, timeout: Milliseconds, clock: Clock): Promise<void>
  /**
   * Sends the commands that are queued, waits for their replies, and closes the connection, at the latest after
   * `timeout`.
   */
  close (client: Client, timeout: Milliseconds, clock: Clock): Promise<void>
  /** Closes the connection at once. */
  disconnect (client: Client): void
  /** Has the library's own plugin decorate the app. @returns whether it has */
  decorate (fastify: FastifyInstance, client: Client, namespace: string | undefined): Promise<boolean>
}

/**
 * Loads the driver of the client that is given or asked for. No other client library is loaded.
 *
 * @throws `FST_REDIS_SUITE_REDIS_MISSING_PACKAGE`
 */
export async function driverFor ({ client, driver }: RedisPluginOptions): Promise<Driver> {
  const isGiven = isRedisClient(client)
  if (isGiven && isUpstash(client)) {
    const { upstashDriver } = await import('./upstash.js')
    return upstashDriver as Driver<never> as Driver
  }
  if (isGiven ? isIoredis(client) : driver !== 'node-redis') {
    const { ioredisDriver } = await import('./ioredis.js')
    return ioredisDriver as Driver<never> as Driver
  }
  const { loadNodeRedisDriver } = await import('./node-redis.js')
  return await loadNodeRedisDriver(!isGiven) as Driver<never> as Driver
}
