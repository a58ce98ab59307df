import { circuitBreaker, ConsecutiveBreaker, handleAll, timeout, TimeoutStrategy, wrap } from 'cockatiel'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import CircuitBreaker from 'opossum'
import { Bench } from 'tinybench'
import { portOf } from '../plugins/shared/redis/client.js'
import { guardRedis } from '../plugins/shared/redis/guard.js'

// Measures what a deadline and a circuit breaker cost on the hot path: 50 concurrent operations that resolve
// immediately. The server receives no commands.
const CONCURRENCY = 50
const DEADLINE_MS = 150
const operation = async () => 'OK'

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
  'bare operation': operation,
  'this suite: guard.run': () => guard.run(operation),
  'opossum 9: fire': () => opossum.fire(operation),
  'cockatiel 3: timeout + breaker': () => cockatiel.execute(operation)
}

process.removeAllListeners('warning') // cockatiel adds many listeners to one AbortSignal
const bench = new Bench({ time: 1000, warmupTime: 200 })
for (const [name, call] of Object.entries(cases)) {
  bench.add(name, async () => { await Promise.all(Array.from({ length: CONCURRENCY }, call)) })
}
await bench.run()

console.table(bench.tasks.map(({ name, result }) => ({
  case: name,
  'ns a call (median)': result.state === 'completed' ? Math.round(result.latency.p50 * 1e6 / CONCURRENCY) : result.state
})))
opossum.shutdown()
client.disconnect()
