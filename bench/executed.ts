// Counts the files and functions of the suite that one request executes, by V8's precise coverage: how much a reader
// has to follow. `--list` names them. `DIST` takes another build than this one's.
import { Session, type Profiler } from 'node:inspector/promises'
import { parseArgs } from 'node:util'
import Fastify, { type FastifyInstance, type InjectOptions } from 'fastify'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { markdown, type Row } from './frame/markdown.js'
import { QUICK_NOTE } from './frame/report.js'

const { values: { list = false, quick = false } } = parseArgs({
  options: { list: { type: 'boolean' }, quick: { type: 'boolean' } }
})
const DIST = new URL(process.env['DIST'] ?? '../dist/', import.meta.url).href
const {
  cache, rateLimit, redis: redisPlugin, session
} = await import(`${DIST}plugins/index.js`) as typeof import('../plugins/index.js')

const server = await startRedis()
const inspector = new Session()
inspector.connect()
await inspector.post('Profiler.enable')
await inspector.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false })

/** Each kind of request has an app of its own, so that no other plugin's hooks run with it. */
async function appWith (register: (app: FastifyInstance) => Promise<void>): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(redisPlugin, { url: server.url })
  await register(app)
  await app.ready()
  return app
}

const cached = await appWith(async app => {
  await app.register(cache)
  app.get('/cached', { config: { cache: { ttl: '1m' } } }, () => ({ hello: 'world' }))
  app.get<{ Params: { id: string } }>(
    '/cached/:id', { config: { cache: { ttl: '1m' } } }, request => ({ id: request.params.id })
  )
  app.get<{ Params: { id: string } }>('/value/:id', async request =>
    await app.cache.getOrSet(`value:${request.params.id}`, () => ({ n: 1 })))
})
const limited = await appWith(async app => {
  await app.register(rateLimit)
  app.get('/limited', () => ({ hello: 'world' }))
})
const sessions = await appWith(async app => {
  await app.register(session, { secret: 'a secret of at least thirty-two characters', cookie: { secure: false } })
  app.get('/session', request => ({ visits: request.session.get('visits') ?? 0 }))
  app.get('/session/write', request => {
    request.session.set('visits', Math.random())
    return {}
  })
})

interface Executed { files: Set<string>, functions: string[] }

const ATTEMPTS = quick ? 3 : 20

/** Returns the smallest of many measurements: in some of them a timer runs, or L1 waits for a reply of Redis. */
async function shortest (app: FastifyInstance, requestOf: () => InjectOptions): Promise<Executed> {
  let best: Executed | undefined
  for (let i = 0; i < ATTEMPTS; i++) {
    const executed = await executedBy(app, requestOf())
    if (best === undefined || executed.functions.length < best.functions.length) best = executed
  }
  return best ?? { files: new Set(), functions: [] }
}

/** Returns what one request executes, and what its response starts in the same turn of the event loop. */
async function executedBy (app: FastifyInstance, request: InjectOptions): Promise<Executed> {
  await inspector.post('Profiler.takePreciseCoverage')
  const response = await app.inject(request)
  if (response.statusCode !== 200) throw new Error(`${String(request.url)}: ${response.statusCode} ${response.body}`)
  await new Promise(setImmediate)
  const { result } = await inspector.post('Profiler.takePreciseCoverage') as Profiler.TakePreciseCoverageReturnType
  const scripts = result.filter(({ url }) => url.startsWith(`${DIST}plugins/`))
  const executed: Executed = { files: new Set(), functions: [] }
  for (const { url, functions } of scripts) {
    for (const { functionName, ranges: [range] } of functions) {
      if (range === undefined || range.count === 0 || functionName === '__name') continue
      const file = url.slice(`${DIST}plugins/`.length)
      executed.files.add(file)
      executed.functions.push(`${file} ${functionName || '(anonymous)'}`)
    }
  }
  return executed
}

let fresh = 0
const miss = (path: string): InjectOptions => ({ url: `${path}/${++fresh}` })
const cookie = (await sessions.inject('/session/write')).headers['set-cookie']?.toString().split(';')[0] ?? ''

const REQUESTS: ReadonlyArray<[name: string, app: FastifyInstance, request: () => InjectOptions]> = [
  ['cached route, L1 hit', cached, () => ({ url: '/cached' })],
  ['cached route, cold miss', cached, () => miss('/cached')],
  ['getOrSet, L1 hit', cached, () => ({ url: '/value/warm' })],
  ['getOrSet, cold miss', cached, () => miss('/value')],
  ['limited request', limited, () => ({ url: '/limited' })],
  ['session read', sessions, () => ({ url: '/session', headers: { cookie } })],
  ['session write', sessions, () => ({ url: '/session/write', headers: { cookie } })]
]
// An instance uses L1 only after other instances had time to write their pending invalidations.
await new Promise(resolve => setTimeout(resolve, 1500))
const rows: Row[] = []
for (const [name, app, request] of REQUESTS) {
  const { files, functions } = await shortest(app, request)
  rows.push({ request: name, files: files.size, functions: functions.length })
  if (list) console.log(`\n${name}\n${functions.sort().map(line => `  ${line}`).join('\n')}`)
}
console.log(`\nFiles and functions executed\n\n${markdown(rows)}`)
if (quick) console.log(`\n${QUICK_NOTE}`)

for (const app of [cached, limited, sessions]) await app.close()
await server.stop()
inspector.disconnect()
