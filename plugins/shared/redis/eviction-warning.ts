import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from './client.js'
import type { PluginName } from '../plugin/errors.js'
import { infoOf, mastersOf } from './info.js'

/** Says in the log where the server may evict what must not go. That it may not be asked is no error. */
export function warnOfEviction (client: RedisClient, plugin: PluginName, log: FastifyBaseLogger, warning: string, isUnfit: (policy: string) => boolean): void {
  Promise.all(mastersOf(client).map(node => infoOf(node, 'memory'))).then(infos => {
    const policy = infos.map(info => info.get('maxmemory_policy')).find(policy => policy !== undefined && isUnfit(policy))
    if (policy !== undefined) log.warn({ plugin, policy }, warning)
  }, () => {})
}
