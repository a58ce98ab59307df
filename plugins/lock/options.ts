import { isRedisClient, repliesWithText, REPLIES_ALLOWED, type RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import { invalidOptionError, InWords } from '../shared/plugin/errors.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/redis/guard.js'
import { readOptions } from '../shared/plugin/option-reader.js'

/** How one lock is taken; what is left out is as the plugin's. */
export interface LockOptions {
  /** For how long the lock stands, from when it was taken or extended last: 100 ms to 1 day. @default '10s' */
  ttl?: Duration | undefined
  /** How long to wait for it; 0: not at all. @default '10s' */
  wait?: Duration | undefined
  /** How long at most until it is asked again, where no message said that the lock is free. @default 250 ms */
  retryDelay?: Duration | undefined
  /** Whether it is extended by itself, each third of `ttl`. @default true for `using`, false for `acquire` */
  extend?: boolean | undefined
  /** Ends the waiting, with its reason. It does not end what is done under the lock. */
  signal?: AbortSignal | undefined
}

/** Options of the `lock` plugin. */
export interface LockPluginOptions extends Omit<LockOptions, 'signal'> {
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** Clients of 3 or more independent servers, in place of `redis`: whoever has the majority has the lock. */
  nodes?: readonly RedisClient[] | undefined
  /** How long one operation may take. @default 150 ms */
  timeout?: Duration | undefined
  /** By which part of `ttl` clocks may run apart, 0 to 0.5: a lock counts as lost so much before it ends. @default 0.01 */
  clockDrift?: number | undefined
  /** The clock for TTLs, extensions, waits and deadlines: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

export interface ResolvedLockOptions {
  ttl: number
  wait: number
  retryDelay: number
  extend: boolean | undefined
  signal: AbortSignal | undefined
}

export interface ResolvedLockPluginOptions extends ResolvedLockOptions {
  nodes: readonly RedisClient[] | undefined
  timeout: number
  clockDrift: number
  clock: Clock
}

const LOCK_OPTIONS = ['ttl', 'wait', 'retryDelay', 'extend']
const DAY = 86_400_000

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
export function resolvePluginOptions (given: LockPluginOptions): ResolvedLockPluginOptions {
  const read = readOptions('lock', given)
  read.onlyKnown([...LOCK_OPTIONS, 'redis', 'nodes', 'timeout', 'clockDrift', 'clock'])
  if (given.nodes !== undefined && given.redis !== undefined) read.fail('redis', '"redis" or "nodes", not both')
  if (given.nodes !== undefined && !areNodes(given.nodes)) read.fail('nodes', 'ioredis clients of 3 or more servers, each once')
  if (given.nodes?.some(repliesWithText)) throw invalidOptionError('lock', 'nodes', new InWords('clients of which one has stringNumbers'), REPLIES_ALLOWED)
  const clockDrift = read.fraction('clockDrift', 0.01)
  if (clockDrift > 0.5) read.fail('clockDrift', 'a number from 0 to 0.5')
  return {
    ...resolve(given, { ttl: 10_000, wait: 10_000, retryDelay: 250, extend: undefined, signal: undefined }),
    nodes: given.nodes,
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    clockDrift,
    clock: read.clock()
  }
}

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
export function resolveLockOptions (given: LockOptions, defaults: ResolvedLockOptions): ResolvedLockOptions {
  const read = readOptions('lock', given)
  read.onlyKnown([...LOCK_OPTIONS, 'signal'])
  if (given.signal !== undefined && !(given.signal instanceof AbortSignal)) read.fail('signal', 'an AbortSignal')
  return resolve(given, defaults)
}

function resolve (given: LockOptions, defaults: ResolvedLockOptions): ResolvedLockOptions {
  const read = readOptions('lock', given)
  return {
    ttl: read.duration('ttl', defaults.ttl, { min: 100, max: DAY }),
    wait: read.duration('wait', defaults.wait, { max: DAY }),
    retryDelay: read.duration('retryDelay', defaults.retryDelay, { min: 10, max: 60_000 }),
    extend: given.extend === undefined ? defaults.extend : read.boolean('extend', true),
    signal: given.signal
  }
}

function areNodes (nodes: unknown): boolean {
  return Array.isArray(nodes) && nodes.length >= 3 && nodes.every(isRedisClient) && new Set(nodes).size === nodes.length
}
