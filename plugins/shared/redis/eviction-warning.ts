import type { FastifyBaseLogger } from 'fastify'
import type { PluginName } from '../plugin/errors.js'
import { infoOf, mastersOf } from './info.js'
import type { RedisPort } from './port.js'

/** Warns if the server's eviction policy is unfit for the plugin's data. A refused `INFO` (ACL) is ignored. */
export function warnOfEviction (
  client: RedisPort, plugin: PluginName, log: FastifyBaseLogger, warning: string, isUnfit: (policy: string) => boolean
): void {
  Promise.all(mastersOf(client).map(node => infoOf(node, 'memory'))).then(infos => {
    const policy = infos.map(info => info.get('maxmemory_policy')).find(policy =>
      policy !== undefined && isUnfit(policy))
    if (policy !== undefined) log.warn({ plugin, policy }, warning)
  }, () => {})
}
