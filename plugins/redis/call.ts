import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import {
  InWords, invalidArgumentError, isOutage, isOutOfMemory, isWriteRefusal, withoutCommand
} from '../shared/plugin/errors.js'
import { resolveOptions, type Resolved } from '../shared/plugin/option-table.js'
import { findClient } from '../shared/redis/client.js'
import type { IoredisClient } from '../shared/redis/clients/ioredis.js'
import { isConnectionError, named } from '../shared/redis/clients/node-redis/index.js'
import type { RedisPort } from '../shared/redis/port.js'
import { onNode } from '../shared/redis/cluster-nodes.js'
import { guardRedis, type RedisGuard } from '../shared/redis/guard.js'
import { StoreUnavailableError } from './errors.js'
import { CALL_OPTIONS, type RedisCallOptions } from './options.js'

/** The parts of an app that a call to Redis uses. Any `FastifyInstance` has them, also over HTTP/2. */
export interface AppWithRedis {
  readonly log: FastifyBaseLogger
  hasDecorator (name: string | symbol): boolean
}

/**
 * Sends commands of your own under the failure policy of the plugins: a deadline, and the circuit breaker that all
 * calls of a client share. The operation runs at most once. It should only send commands: the deadline includes all
 * that it waits for, and missed deadlines open the circuit for all plugins.
 *
 * @param operation - sends commands and returns their reply. Its client is one of ioredis, unless its parameter has
 * another type. Its result may also be that of a pipeline: a command of it
 * that got no reply rejects the whole call
 * @throws `FST_REDIS_SUITE_REDIS_STORE_UNAVAILABLE` (503, `cause` has the reason) if Redis does not reply in time or
 * refuses writes; at once while the circuit is open. Other errors of Redis and of the operation as they are
 * @throws `FST_REDIS_SUITE_REDIS_INVALID_OPTION`
 *
 * @example
 * const name = await callRedis(app, redis => redis.hget(`user:${id}`, 'name'), { timeout: '50ms' })
 */
export async function callRedis<T, Client = IoredisClient> (
  app: AppWithRedis, operation: (redis: Client) => T | PromiseLike<T>, options: RedisCallOptions = {}
): Promise<Awaited<T>> {
  const call = resolveCall(app, options)
  const { client, nodeOf } = call
  const send = async () => await operation(client.client as Client)
  return await guarded(call, nodeOf === undefined ? send : () => onNode(client, nodeOf, send))
}

/** A call's options, complete and checked. */
type ResolvedCall = Omit<Resolved<typeof CALL_OPTIONS>, 'client'> & { app: AppWithRedis, client: RedisPort }

export function resolveCall (app: AppWithRedis, given: RedisCallOptions): ResolvedCall {
  const options = resolveOptions('redis', CALL_OPTIONS, given)
  const client = findClient(app as FastifyInstance, 'redis', options.client)
  if (client === undefined) {
    throw invalidArgumentError(
      'redis', 'app', new InWords('one without fastify.redis'),
      'an app with the plugin redis, or beside the option client'
    )
  }
  return { ...options, app, client }
}

/** Runs an operation as {@link callRedis} does. */
export async function guarded<T> (call: ResolvedCall, operation: () => Promise<T>): Promise<T> {
  let outcome: Outcome<T>
  try {
    outcome = await guardOf(call).runOnce(() => outcomeOf(call.client, operation))
  } catch (error) {
    throw isUnavailable(error) ? new StoreUnavailableError({ cause: withoutCommand(error) }) : error
  }
  if ('thrown' in outcome) throw outcome.thrown
  return outcome.value
}

type Outcome<T> = { value: T } | { thrown: unknown }

/** Rejects for failures of Redis only: an error of the app's own code must not open the circuit. */
async function outcomeOf<T> (client: RedisPort, operation: () => Promise<T>): Promise<Outcome<T>> {
  let value: T
  try {
    value = await operation()
  } catch (error) {
    const thrown = named(error)
    if (isOfRedis(thrown) || isOfConnection(thrown, client)) throw thrown
    return { thrown }
  }
  throwOutage(value)
  return { value }
}

/** Throws the outage that a pipeline reports as the result of a command, `[error, reply]`. */
function throwOutage (value: unknown): void {
  if (!Array.isArray(value)) return
  for (const entry of value) {
    if (Array.isArray(entry) && entry[0] instanceof Error && isOfRedis(entry[0]) && isUnavailable(entry[0])) {
      throw entry[0]
    }
  }
}

const ERROR_NAMES = new Set(['ReplyError', 'MaxRetriesPerRequestError', 'ClusterAllFailedError', 'ParserError'])
/** Messages of ioredis whose errors have no name or code of their own. */
const MESSAGES = new RegExp(`^(?:${[
  'Connection is closed', 'Command timed out', 'Socket timeout', 'Stream isn\'t writeable',
  'All sentinels are unreachable',
  'None of startup nodes is available', 'Node is disconnected', 'Cluster is(?:n\'t ready| disconnect)',
  'Too many Cluster redirections'
].join('|')})`)

/** Whether an error is Redis's, the client library's or the guard's, and not one of the app's own code. */
function isOfRedis (error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return ERROR_NAMES.has(error.name) || MESSAGES.test(error.message) || isConnectionError(error) || isGuardError(error)
}

/**
 * Whether a system error is that of the client's connection. While the connection is ready, it is that of a file, a
 * database or another server that the operation uses.
 */
function isOfConnection (error: unknown, client: RedisPort): boolean {
  return error instanceof Error && ('errno' in error || 'syscall' in error) && client.status !== 'ready'
}

function isGuardError (error: Error): boolean {
  return 'code' in error && String(error.code).startsWith('FST_REDIS_SUITE_REDIS_')
}

function isUnavailable (error: unknown): boolean {
  return isOutage(error) || isWriteRefusal(error) || isOutOfMemory(error)
}

// By client, clock and policy: a guard keeps no state of its own, so that calls share it.
const guards = new WeakMap<RedisPort, WeakMap<Clock, Map<string, RedisGuard>>>()

function guardOf ({ app, client, clock, timeout, patient }: ResolvedCall): RedisGuard {
  const byClock = guards.get(client) ?? new WeakMap<Clock, Map<string, RedisGuard>>()
  guards.set(client, byClock)
  const byPolicy = byClock.get(clock) ?? new Map<string, RedisGuard>()
  byClock.set(clock, byPolicy)
  const policy = `${timeout} ${patient}`
  const known = byPolicy.get(policy)
  if (known !== undefined) return known
  const guard = guardRedis(client, app.log, timeout, 'redis', clock, { isPatient: patient })
  byPolicy.set(policy, guard)
  return guard
}
