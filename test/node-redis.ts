// Runs tests of the functional lane with apps whose client is node-redis's: those files that use no client of ioredis from the app.
import { spawnSync } from 'node:child_process'

const FILES = [
  'cache/cache', 'cache/coherence', 'cache/data-faults', 'events/events', 'events/sse', 'events/sse-session', 'events/stream', 'events/stream-consume',
  'idempotency/callers', 'idempotency/faults', 'idempotency/idempotency', 'lock/faults', 'lock/lock', 'rate-limit/rate-limit', 'session/attacks',
  'session/callbacks', 'session/cookie'
]

const { status } = spawnSync('tsx', ['test/run.ts', 'functional', ...process.argv.slice(2), ...FILES.map(file => `test/${file}.test.ts`)], {
  stdio: 'inherit',
  env: { ...process.env, TEST_DRIVER: 'node-redis' }
})
process.exit(status ?? 1)
