import type { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { portOf, type RedisClient } from '../shared/redis/client.js'
import { isDatabaseRefusal, summary } from './errors.js'
import type { ResolvedRedisOptions } from './options.js'

/**
 * Logs one line for each change of state. While the connection is down its errors are counted, not logged: the line for
 * its return has their number.
 *
 * @returns a function that ends the log, when the app closes
 */
export function logConnection (
  client: RedisClient, address: string, log: FastifyBaseLogger, {
    namespace, required, clock
  }: Pick<ResolvedRedisOptions, 'namespace' | 'required' | 'clock'>
): () => void {
  const fields = { plugin: 'redis', address, namespace }
  let state: 'connecting' | 'connected' | 'down' = 'connecting'
  let since = clock.monotonic()
  let errors = 0
  let reason: string | undefined
  let isClosing = false
  let isRefused = false
  let attempts = 0

  const enter = (next: typeof state) => { state = next; since = clock.monotonic(); errors = 0; reason = undefined }

  const connected = () => {
    isRefused = false
    attempts = 0
    const outage = state === 'down' ? { downMs: Math.round(clock.monotonic() - since), errors } : {}
    enter('connected')
    log.info({ ...fields, ...outage }, 'redis: connected')
  }

  const port = portOf(client)
  // Without a connection, the circuit breaker reports what there is to report.
  if (port.isHttp) return () => {}
  // The nodes of a Cluster are ready one by one.
  const onReady = () => { if (state !== 'connected') connected() }
  if (port.status === 'ready') connected()
  port.on('ready', onReady)
  keepErrorsFromThrowing(client)
  const onError = (error: unknown): void => {
    // A client of Sentinels of node-redis emits texts as well, each before its error.
    if (!(error instanceof Error)) return
    errors++
    reason = summary(error)
    if (isDatabaseRefusal(error) && !isRefused) {
      isRefused = true
      const problem = 'redis: the server refuses the database, so that nothing is sent to it; choose one that it has'
      log.error({ ...fields, reason }, problem)
    }
    // If Redis is required, the error of the boot reports it.
    if (state === 'connecting' && !required) down('redis: cannot connect, trying again until it can')
  }
  emitterOf(client).on('error', onError)
  // A client that the app itself closes emits 'close' as well.
  const onReconnecting = (): void => {
    attempts = attemptsOf(client)
    if (state === 'connected' && !isClosing) down('redis: connection lost, reconnecting')
  }
  port.on('reconnecting', onReconnecting)
  const onEnd = (): void => {
    if (!isClosing && attemptsOf(client) > attempts) {
      down('redis: connection lost, and the client does not reconnect, as its retryStrategy gives up')
    }
    isClosing = true
  }
  port.on('end', onEnd)
  // A given client outlives the app, and would keep its logger.
  return () => {
    isClosing = true
    port.off('ready', onReady)
    port.off('reconnecting', onReconnecting)
    port.off('end', onEnd)
    emitterOf(client).off('error', onError)
  }

  function down (message: string): void {
    const why = reason
    enter('down')
    log.warn({ ...fields, reason: why }, message)
  }
}

const quiet = new WeakSet<RedisClient>()

/** An emitter without a listener of `error` throws the error, also after the app was closed. */
function keepErrorsFromThrowing (client: RedisClient): void {
  if (quiet.has(client)) return
  quiet.add(client)
  emitterOf(client).on('error', () => {})
}

/** The clients of all libraries but that of Upstash have the event `error`. */
function emitterOf (client: RedisClient): EventEmitter {
  return client as unknown as EventEmitter
}

/**
 * Returns how often in a row the client has asked its retry strategy. ioredis has no event for a strategy that gives
 * up: it emits 'end', as after `quit()`.
 */
function attemptsOf (client: RedisClient): number {
  return Number(Reflect.get(client, 'retryAttempts') ?? 0)
}
