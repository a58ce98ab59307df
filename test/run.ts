// Runs one lane of the tests, see LANES: `tsx test/run.ts functional`; test files, or options of tap, may follow.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { compileAll } from './helpers/compiled/compile.js'
import { TYPESCRIPT } from './helpers/compiled/exec-argv.js'
import { installFastify6 } from './helpers/compiled/other-fastify.js'
import { servePool } from './helpers/servers/pool.js'
import { stopAll } from '../tools/servers/registry.js'

// On Node.js 20 V8 optimizes functions so early that short test files spend a fifth of their CPU time on it.
const SHORT_FILES = process.version.startsWith('v20.') ? ['--node-arg=--interrupt-budget=1000000'] : []

/** Functional tests that use no client of ioredis from the app, so that its client may be one of node-redis. */
const WITHOUT_IOREDIS = [
  'cache/attacks', 'cache/cache', 'cache/changed-urls', 'cache/coherence', 'cache/data-faults', 'cache/data-fuzz', 'cache/interleavings',
  'cache/keys', 'cache/owners', 'cache/reentrancy', 'cache/responses', 'cache/stampede', 'cache/stored-bytes', 'cache/tiers', 'cache/withdrawn',
  'cache/write-behind/cached', 'cache/write-behind/faults', 'cache/write-behind/write-behind', 'events/events', 'events/sse', 'events/sse-session',
  'events/stream', 'events/stream-consume', 'idempotency/callers', 'idempotency/faults', 'idempotency/idempotency', 'idempotency/store',
  'lock/faults', 'lock/lock', 'rate-limit/faults', 'rate-limit/features', 'rate-limit/model', 'rate-limit/rate-limit', 'rate-limit/scopes',
  'session/attacks', 'session/callbacks', 'session/changes', 'session/cookie', 'session/session', 'session/users'
].map(file => `test/${file}.test.ts`)

/** The same for Upstash, which has no subscriptions and no Cluster. */
const OVER_HTTP = [
  'cache/cache', 'cache/changed-urls', 'cache/interleavings', 'cache/owners', 'cache/reentrancy', 'cache/stampede', 'cache/stored-bytes',
  'cache/tiers', 'cache/write-behind/cached', 'cache/write-behind/faults', 'cache/write-behind/write-behind', 'idempotency/callers',
  'idempotency/faults', 'idempotency/idempotency', 'idempotency/store', 'lock/lock', 'rate-limit/features', 'rate-limit/model',
  'rate-limit/rate-limit', 'rate-limit/scopes', 'session/attacks', 'session/callbacks', 'session/changes', 'session/cookie', 'session/faults',
  'session/session', 'session/users'
].map(file => `test/${file}.test.ts`)

/** The default arguments of tap for each lane. The functional lane is what `.taprc` includes. */
const LANES: Record<string, string[]> = {
  functional: SHORT_FILES,
  examples: [...SHORT_FILES, 'test/examples/**/*.test.ts', 'test/demo/**/*.test.ts'],
  'node-redis': [...SHORT_FILES, ...WITHOUT_IOREDIS],
  upstash: [...SHORT_FILES, ...OVER_HTTP],
  // By test/servers.ts, on one server after the other.
  servers: [...SHORT_FILES, 'test/{redis,rate-limit,session,cache,lock,events}/**/*.test.ts'],
  // The functional tests on the next major version of Fastify.
  'fastify-6': SHORT_FILES,
  // One file at a time: measuring milliseconds needs the whole machine.
  timing: ['--jobs=1', 'test/timing/**/*.test.ts'],
  stress: ['--jobs=1', '--timeout=600', 'test/stress/**/*.test.ts']
}
// Compiled by esbuild before tap starts, which takes a second; types are checked by `npm run typecheck`. For coverage tap records each module that a
// process loads; without it, that is a tenth of a short file's CPU time for nothing.
const COMPILED = [
  '--disable-coverage', '--allow-empty-coverage', '--plugin=!@tapjs/typescript', '--test-env=_TAPJS_PROCESSINFO_EXCLUDE_=/./',
  ...TYPESCRIPT.map(arg => `--node-arg=${arg}`)
]

/** The lanes that run with another client. */
const CLIENTS = new Set(['node-redis', 'upstash'])

const [lane = '', ...rest] = process.argv.slice(2)
const defaults = LANES[lane]
if (defaults === undefined) {
  console.error(`unknown lane "${lane}"; one of ${Object.keys(LANES).join(', ')}`)
  process.exit(2)
}
const namesFiles = rest.some(arg => !arg.startsWith('-'))
const withCoverage = rest.includes('--coverage')
const args = [
  ...withCoverage ? [] : COMPILED,
  ...defaults.filter(arg => arg.startsWith('-') || !namesFiles),
  ...rest.filter(arg => arg !== '--coverage')
]

const started = performance.now()
const pool = await servePool()
const compiled = withCoverage ? {} : { TEST_COMPILED: await compileAll() }
const ofLane = CLIENTS.has(lane) ? { TEST_DRIVER: lane } : lane === 'fastify-6' ? { TEST_FASTIFY: installFastify6() } : {}
const tap = spawn('tap', args, { stdio: 'inherit', env: { ...process.env, ...ofLane, TEST_SERVERS: pool.path, ...compiled } })
// tap ends its files by itself, and this process then stops the servers.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => { tap.kill(signal) })
const [code, signal] = await once(tap, 'exit') as [number | null, string | null]
pool.close()
await stopAll()
const seconds = Math.round((performance.now() - started) / 1000)
console.log(`${lane} tests: ${code === 0 ? 'passed' : 'FAILED'} in ${seconds} s${cpuTime()}`)
process.exit(code ?? (signal === null ? 1 : 130))

/** The CPU time of the child processes that this process has waited for, and of their children, as Linux counts it. */
function cpuTime (): string {
  try {
    const fields = readFileSync('/proc/self/stat', 'utf8').split(') ')[1]?.split(' ') ?? []
    const ticks = [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0)
    return `, ${Math.round(ticks / 100)} s of CPU`
  } catch {
    return ''
  }
}
