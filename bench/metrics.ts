// Measures the cost of metrics: requests per second, and CPU of a request, of one Fastify process with cache, limiter
// and sessions, with and without metrics. On a shared machine the CPU time is the better measure.
import { Redis } from 'ioredis'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { CONNECTIONS, measure, type Headers, type HttpRound } from './frame/http-load.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'
import type { Variant } from './frame/results.js'
import { giveServersACore, startServer, stopServers, type Server } from './frame/server.js'
import { quantile } from './frame/statistics.js'

const WITHOUT = 'this suite, without metrics'
const SCRAPED = 'this suite, metrics, scraped'
const VARIANTS = [WITHOUT, 'this suite, metrics', 'this suite, metrics, tracing', SCRAPED]

const options = readOptions(['cached', 'plain'])
const report = new Report(options.isQuick)
giveServersACore()
const redis = await startRedis()
const admin = new Redis(redis.url)

async function start (variant: string): Promise<Server> {
  const server = await startServer('metrics-server.ts', [variant, redis.url])
  // Fifteen times as often as Prometheus scrapes by default.
  if (variant === SCRAPED) {
    setInterval(() => { fetch(`${server.url}/metrics`).then(r => r.text()).catch(() => {}) }, 1000).unref()
  }
  return server
}

async function visit (url: string): Promise<Headers[]> {
  const response = await fetch(`${url}/visit`, { method: 'POST' })
  const cookie = response.headers.get('set-cookie')?.split(';', 1)[0] ?? ''
  return Array.from({ length: CONNECTIONS }, () => ({ cookie }))
}

/** The differences are small, so the table has the middle half of the ratios of neighbouring rounds as well. */
function middleHalf ({ rounds }: Variant<HttpRound>, base: Variant<HttpRound> | undefined): string {
  const ratios = rounds.map(({ cpu }, i) => cpu / (base?.rounds[i]?.cpu ?? NaN))
  return `${quantile(ratios, 0.25).toFixed(3)} to ${quantile(ratios, 0.75).toFixed(3)}`
}

for (const [part, path] of [['cached', '/cached/1'], ['plain', '/plain']] as const) {
  if (!options.parts.has(part)) continue
  const measured = await measure({ options, redis: admin, variants: VARIANTS, start, path, clientsOf: visit })
  const base = measured.find(({ variant }) => variant === WITHOUT)
  report.compare(`Metrics, ${path}`, measured, [WITHOUT], one => ({
    'CPU, of without, middle half': middleHalf(one, base)
  }))
  await stopServers(measured.flatMap(({ servers }) => servers))
}
admin.disconnect()
await stopAll()
report.end()
