import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../shared/redis/client.js'
import { addressOf } from './connect.js'
import { isDatabaseRefusal, summary } from './errors.js'
import type { ResolvedRedisOptions } from './options.js'

/**
 * Logs one line a change of state. While the connection is down its errors are counted, not logged one by one;
 * the line that says it is back tells how many there were.
 *
 * @returns a function that ends the log, for when the app closes the client itself
 */
export function logConnection (client: RedisClient, log: FastifyBaseLogger, { namespace, required, clock }: Pick<ResolvedRedisOptions, 'namespace' | 'required' | 'clock'>): () => void {
  const about = { plugin: 'redis', address: addressOf(client), namespace }
  let state: 'connecting' | 'connected' | 'down' = 'connecting'
  let since = clock.monotonic()
  let errors = 0
  let reason: string | undefined
  let closing = false
  let isRefused = false
  let attempts = 0

  const enter = (next: typeof state) => { state = next; since = clock.monotonic(); errors = 0; reason = undefined }

  const connected = () => {
    isRefused = false
    attempts = 0
    const outage = state === 'down' ? { downMs: Math.round(clock.monotonic() - since), errors } : {}
    enter('connected')
    log.info({ ...about, ...outage }, 'redis: connected')
  }

  if (client.status === 'ready') connected()
  client.on('ready', connected)
  client.on('error', (error: Error) => {
    errors++
    reason = summary(error)
    if (isDatabaseRefusal(error) && !isRefused) {
      isRefused = true
      log.error({ ...about, reason }, 'redis: the server refuses the database, so that nothing is sent to it; choose one that it has')
    }
    // Where Redis is required, the error of the boot says so.
    if (state === 'connecting' && !required) down('redis: cannot connect, trying again until it can')
  })
  // Not on 'close', which a client that the app closes itself emits as well.
  client.on('reconnecting', () => {
    attempts = attemptsOf(client)
    if (state === 'connected' && !closing) down('redis: connection lost, reconnecting')
  })
  client.on('end', () => {
    if (!closing && attemptsOf(client) > attempts) down('redis: connection lost, and the client does not reconnect, as its retryStrategy gives up')
    closing = true
  })
  return () => { closing = true }

  function down (message: string): void {
    const why = reason
    enter('down')
    log.warn({ ...about, reason: why }, message)
  }
}

/** How often in a row the client's retry strategy was asked. ioredis has no event for a strategy that gives up: 'end' follows, as after `quit()`. */
function attemptsOf (client: RedisClient): number {
  return Number(Reflect.get(client, 'retryAttempts') ?? 0)
}
