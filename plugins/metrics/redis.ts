import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { circuitOf } from '../shared/redis/guard.js'
import type { Sample, Source } from './metric-registry.js'
import { watchCommands } from './commands.js'
import type { FastHistogram, Series } from './histogram.js'
import { boundedLabel } from './labels.js'

const MOST_COMMANDS = 100

interface Watched {
  series: Series
  errors: number
}

/** Of one client, by the name that the label is to have. */
export function watchRedis (client: RedisClient, name: string, histogram: FastHistogram, clock: Clock): Source {
  const labelOf = boundedLabel(MOST_COMMANDS)
  const commands = new Map<string, Watched>()
  let connections = client.status === 'ready' ? 1 : 0
  const onReady = () => { connections++ }
  client.on('ready', onReady)

  const unwatch = watchCommands(client, (command, ms, failed) => {
    const label = labelOf(command)
    let watched = commands.get(label)
    if (watched === undefined) {
      watched = { series: histogram.series(name, label), errors: 0 }
      commands.set(label, watched)
    }
    watched.series.observe(ms / 1000)
    if (failed) watched.errors++
  }, clock)

  function read (): Sample[] {
    const circuit = circuitOf(client)
    const labels = { client: name }
    return [
      ['redis_up', client.status === 'ready' ? 1 : 0, labels],
      ['redis_reconnects_total', Math.max(0, connections - 1), labels],
      ['redis_circuit_open', circuit?.state === 'open' ? 1 : 0, labels],
      ['redis_circuit_opened_total', circuit?.opened ?? 0, labels],
      ...[...commands].map(([command, { errors }]): Sample => ['redis_command_errors_total', errors, { ...labels, command }])
    ]
  }

  return {
    kind: 'redis',
    read,
    stop () {
      client.off('ready', onReady)
      unwatch()
    }
  }
}
