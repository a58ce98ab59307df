import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../../shared/client.js'
import { infoOf, mastersOf } from '../../shared/info.js'

/** Says in the log where the server may evict what was accepted. That it may not be asked is no error. */
export function warnOfEviction (client: RedisClient, log: FastifyBaseLogger): void {
  Promise.all(mastersOf(client).map(node => infoOf(node, 'memory'))).then(infos => {
    const policy = infos.map(info => info.get('maxmemory_policy')).find(policy => policy?.startsWith('allkeys-'))
    if (policy !== undefined) {
      log.warn({ policy }, 'cache: this server may evict accepted writes when its memory is full; use noeviction or a volatile policy')
    }
  }, () => {})
}
