import type { RedisClient } from '../shared/client.js'
import { circuitOf } from '../shared/guard.js'
import type { Check } from './checks.js'

/** A PING, unless the circuit has given Redis up already: then its own probing says when that is over. */
export function createRedisCheck (client: RedisClient): Check {
  return async () => {
    const circuit = circuitOf(client)
    if (circuit?.state === 'open') throw new Error(`circuit open: ${circuit.lastError?.message ?? 'unknown'}`)
    if (client.status !== 'ready') throw new Error(`connection is ${client.status}`)
    await client.ping()
    return client.status
  }
}
