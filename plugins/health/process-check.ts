import type {} from '@fastify/under-pressure'
import type { FastifyInstance } from 'fastify'
import type { Check } from './checks.js'
import { measurements } from './measurement.js'

/** How the process does, by `@fastify/under-pressure`. */
export function createProcessCheck (fastify: FastifyInstance): Check {
  return () => {
    const { eventLoopDelay, eventLoopUtilized } = fastify.memoryUsage()
    // Asked for now: what it knows is of its last sample.
    const { heapUsed, rss } = process.memoryUsage()
    const pressed = fastify.isUnderPressure() ? { status: 'fail', output: 'under pressure' } as const : {}
    return measurements({
      eventLoopDelay: { observedValue: Math.round(eventLoopDelay * 100) / 100, observedUnit: 'ms', componentType: 'system', ...pressed },
      eventLoopUtilization: { observedValue: Math.round(eventLoopUtilized * 1000) / 10, observedUnit: 'percent', componentType: 'system' },
      heapUsed: { observedValue: heapUsed, observedUnit: 'bytes', componentType: 'system' },
      rss: { observedValue: rss, observedUnit: 'bytes', componentType: 'system' },
      uptime: { observedValue: Math.round(process.uptime()), observedUnit: 's', componentType: 'system' }
    })
  }
}
