import type { FastifyInstance } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { isRedisClient, portOf, type RedisClient } from '../shared/redis/client.js'
import { circuitOf } from '../shared/redis/guard.js'
import { watchCommands } from './commands.js'
import type { FastHistogram, Series } from './histogram.js'
import { boundedLabel } from './labels.js'
import type { MetricSource, Sample } from './metric-registry.js'

const MAX_COMMANDS = 100

/** Returns the clients of `fastify.redis` by namespace; the client without one is `default`. */
export function findClients (fastify: FastifyInstance): Array<readonly [name: string, client: RedisClient]> {
  const redis: unknown = fastify.hasDecorator('redis') ? fastify.redis : undefined
  if (typeof redis !== 'object' || redis === null) return []
  const named = Object.entries(redis).filter((entry): entry is [string, RedisClient] => isRedisClient(entry[1]))
  return isRedisClient(redis) ? [['default', redis]] : named
}

/** Watches a client's connection and commands. @param name - the value of the label `client` */
export function watchRedis (client: RedisClient, name: string, histogram: FastHistogram, clock: Clock): MetricSource {
  const labelOf = boundedLabel(MAX_COMMANDS)
  const commands = new Map<string, { series: Series, errors: number }>()
  const port = portOf(client)
  let connections = port.status === 'ready' ? 1 : 0
  const onReady = () => { connections++ }
  port.on('ready', onReady)

  const unwatch = watchCommands(client, (command, ms, hasFailed) => {
    const label = labelOf(command)
    let ofCommand = commands.get(label)
    if (ofCommand === undefined) {
      ofCommand = { series: histogram.series(name, label), errors: 0 }
      commands.set(label, ofCommand)
    }
    ofCommand.series.observe(ms / 1000)
    if (hasFailed) ofCommand.errors++
  }, clock)

  function read (): Sample[] {
    const circuit = circuitOf(client)
    const labels = { client: name }
    return [
      ['redis_up', port.status === 'ready' ? 1 : 0, labels],
      ['redis_reconnects_total', Math.max(0, connections - 1), labels],
      ['redis_circuit_open', circuit?.state === 'open' ? 1 : 0, labels],
      ['redis_circuit_opened_total', circuit?.opened ?? 0, labels],
      ...[...commands].map(([command, { errors }]): Sample =>
        ['redis_command_errors_total', errors, { ...labels, command }])
    ]
  }

  return {
    kind: 'redis',
    read,
    stop () {
      port.off('ready', onReady)
      unwatch()
    }
  }
}
