import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../shared/client.js'

const POLICY = /^maxmemory_policy:(allkeys-\w+)/m

/** Says in the log where the server may evict what was accepted. That it may not be asked is no error. */
export function warnOfEviction (client: RedisClient, log: FastifyBaseLogger): void {
  client.info('memory').then(info => {
    const policy = POLICY.exec(info)?.[1]
    if (policy !== undefined) {
      log.warn({ policy }, 'cache: this server may evict accepted writes when its memory is full; use noeviction or a volatile policy')
    }
  }, () => {})
}
