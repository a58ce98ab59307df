import { circuitBreaker, ConsecutiveBreaker, handleAll, timeout, TimeoutStrategy, wrap } from 'cockatiel'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import CircuitBreaker from 'opossum'
import { alternate } from './frame/alternate.js'
import { measureCalls } from './frame/calls.js'
import { compiled } from './frame/compiled.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'
import type { Round } from './frame/results.js'
import { median } from './frame/statistics.js'

const { portOf } = await compiled('shared/redis/client') as typeof import('../plugins/shared/redis/client.js')
const { guardRedis } = await compiled('shared/redis/guard') as typeof import('../plugins/shared/redis/guard.js')

// Measures what a deadline and a circuit breaker cost on the hot path: 50 concurrent operations that resolve
// immediately. The server receives no commands.
const CONCURRENCY = 50
const DEADLINE_MS = 150
const operation = async () => 'OK'
const options = readOptions(['calls'])
const report = new Report(options.isQuick)
const ROUND_MS = options.isQuick ? 100 : 1000

const app = Fastify()
const client = new Redis({ lazyConnect: true })
const guard = guardRedis(portOf(client), app.log, DEADLINE_MS)
const opossum = new CircuitBreaker(
  (run: typeof operation) => run(), { timeout: DEADLINE_MS, rollingPercentilesEnabled: false, enableSnapshots: false }
)
const cockatiel = wrap(
  circuitBreaker(handleAll, { halfOpenAfter: 250, breaker: new ConsecutiveBreaker(5) }),
  timeout(DEADLINE_MS, TimeoutStrategy.Aggressive)
)

const cases: Record<string, () => Promise<unknown>> = {
  bare: operation,
  'this suite: guard.run': () => guard.run(operation),
  'opossum 9: fire': () => opossum.fire(operation),
  'cockatiel 3: timeout + breaker': () => cockatiel.execute(operation)
}

/** Calls in batches until a round is over. @returns the number of calls */
async function callFor (ms: number, call: () => Promise<unknown>): Promise<number> {
  let count = 0
  for (const end = performance.now() + ms; performance.now() < end; count += CONCURRENCY) {
    await Promise.all(Array.from({ length: CONCURRENCY }, call))
  }
  return count
}

process.removeAllListeners('warning') // cockatiel adds many listeners to one AbortSignal
const measured = Object.entries(cases).map(([variant, call]) => ({ variant, call, rounds: [] as Round[] }))
for (const { call } of measured) await callFor(ROUND_MS / 5, call)
await alternate(measured, options.rounds, async ({ call, rounds }) => {
  rounds.push(await measureCalls(() => callFor(ROUND_MS, call)))
})
report.compare('Deadline and circuit breaker', measured, ['opossum 9: fire'], ({ rounds }) => ({
  'ns a call': Math.round(median(rounds.map(({ throughput = NaN }) => 1e9 / throughput)))
}))
opossum.shutdown()
client.disconnect()
report.end()
