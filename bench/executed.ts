// Counts the files and functions of the suite that one request executes, by V8's precise coverage: how much a reader has to follow.
// `--list` names them. `DIST` takes another build than this one's.
import { Session, type Profiler } from 'node:inspector/promises'
import { parseArgs } from 'node:util'
import Fastify, { type InjectOptions } from 'fastify'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { report, type Row } from './run.js'

const { values: { list = false } } = parseArgs({ options: { list: { type: 'boolean' } } })
const DIST = new URL(process.env['DIST'] ?? '../dist/', import.meta.url).href
const { cache, rateLimit, redis: redisPlugin, session } = await import(`${DIST}plugins/index.js`) as typeof import('../plugins/index.js')

const server = await startRedis()
const inspector = new Session()
inspector.connect()
await inspector.post('Profiler.enable')
await inspector.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false })

const app = Fastify()
await app.register(redisPlugin, { url: server.url })
await app.register(cache)
await app.register(rateLimit, { global: false })
await app.register(session, { secret: 'a secret of at least thirty-two characters', cookie: { secure: false } })

const cached = { config: { cache: { ttl: '1m' }, session: false } }
app.get('/cached', cached, () => ({ hello: 'world' }))
app.get<{ Params: { id: string } }>('/cached/:id', cached, request => ({ id: request.params.id }))
app.get('/limited', { config: { rateLimit: { max: 1000, timeWindow: '1m' }, session: false } }, () => ({ hello: 'world' }))
app.get('/session', request => ({ visits: request.session.get('visits') ?? 0 }))
app.get('/session/write', request => {
  request.session.set('visits', Math.random())
  return {}
})
app.get<{ Params: { id: string } }>('/value/:id', { config: { session: false } }, async request => await app.cache.getOrSet(`value:${request.params.id}`, () => ({ n: 1 })))
await app.ready()

interface Executed { files: Set<string>, functions: string[] }

/** Returns what runs from a request until a turn of the event loop after its response, on a warm app. */
async function executedBy (request: InjectOptions): Promise<Executed> {
  await new Promise(resolve => setTimeout(resolve, 100))
  await inspector.post('Profiler.takePreciseCoverage')
  const response = await app.inject(request)
  if (response.statusCode !== 200) throw new Error(`${String(request.url)}: ${response.statusCode} ${response.body}`)
  await new Promise(resolve => setTimeout(resolve, 20))
  const { result } = await inspector.post('Profiler.takePreciseCoverage') as Profiler.TakePreciseCoverageReturnType
  const scripts = result.filter(({ url }) => url.startsWith(`${DIST}plugins/`))
  const executed: Executed = { files: new Set(), functions: [] }
  for (const { url, functions } of scripts) {
    for (const { functionName, ranges: [range] } of functions) {
      if (range === undefined || range.count === 0) continue
      const file = url.slice(`${DIST}plugins/`.length)
      executed.files.add(file)
      executed.functions.push(`${file} ${functionName || '(anonymous)'}`)
    }
  }
  return executed
}

let fresh = 0
const miss = (path: string): InjectOptions => ({ url: `${path}/${++fresh}` })
async function warm (requestOf: () => InjectOptions): Promise<void> {
  for (let i = 0; i < 3; i++) await app.inject(requestOf())
}

const cookie = (await app.inject('/session/write')).headers['set-cookie']?.toString().split(';')[0] ?? ''

const REQUESTS: ReadonlyArray<[name: string, request: () => InjectOptions]> = [
  ['cached route, L1 hit', () => ({ url: '/cached' })],
  ['cached route, cold miss', () => miss('/cached')],
  ['getOrSet, L1 hit', () => ({ url: '/value/warm' })],
  ['getOrSet, cold miss', () => miss('/value')],
  ['limited request', () => ({ url: '/limited' })],
  ['session read', () => ({ url: '/session', headers: { cookie } })],
  ['session write', () => ({ url: '/session/write', headers: { cookie } })]
]
const rows: Row[] = []
for (const [name, request] of REQUESTS) {
  await warm(request)
  const { files, functions } = await executedBy(request())
  rows.push({ request: name, files: files.size, functions: functions.length })
  if (list) console.log(`\n${name}\n${functions.sort().map(line => `  ${line}`).join('\n')}`)
}
report('Files and functions executed', rows)

await app.close()
await server.stop()
inspector.disconnect()
