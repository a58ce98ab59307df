// Measures the cost of metrics: requests per second, and CPU time per request, of one Fastify process with cache,
// limiter and sessions, with and without metrics, in alternating rounds. The result is the median of the ratios of
// neighbouring rounds, because the machine drifts by more than the difference. On a shared machine the CPU time is the
// better measure.
import autocannon from 'autocannon'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { at, CONNECTIONS, ownCpu, report, setting, startServer, stopServers } from './run.js'

const ROUNDS = setting('ROUNDS', 15)
const SECONDS = setting('SECONDS', 3)
const VARIANTS = ['without', 'with', 'with, tracing', 'with, scraped']

const redis = await startRedis()
const servers = await Promise.all(VARIANTS.map(async variant => {
  const server = await startServer('./metrics-server.ts', [variant, redis.url])
  const visit = await fetch(`${server.url}/visit`, { method: 'POST' })
  const cookie = visit.headers.get('set-cookie')?.split(';', 1)[0] ?? ''
  return { ...server, variant, cookie }
}))

interface Round { rate: number, micros: number }

async function load ({ variant, child, url, cookie }: typeof servers[number], path: string): Promise<Round> {
  // Fifteen times as often as Prometheus scrapes by default.
  const scraping = variant === 'with, scraped'
    ? setInterval(() => { fetch(`${url}/metrics`).then(r => r.text()).catch(() => {}) }, 1000)
    : undefined
  const before = await ownCpu(child)
  const {
    requests, non2xx
  } = await autocannon({ url: url + path, connections: CONNECTIONS, duration: SECONDS, headers: { cookie } })
  clearInterval(scraping)
  if (non2xx > 0) throw new Error(`${non2xx} were refused`)
  return { rate: requests.average, micros: (await ownCpu(child) - before) / requests.total }
}

for (const path of ['/cached/1', '/plain']) {
  const rounds = new Map(VARIANTS.map(variant => [variant, [] as Round[]]))
  for (const server of servers) await load(server, path)
  for (let at = 0; at < ROUNDS; at++) {
    // Forward and backward, so that no variant is always first.
    for (const server of at % 2 === 0 ? servers : [...servers].reverse()) {
      rounds.get(server.variant)?.push(await load(server, path))
    }
  }
  const base = rounds.get('without') ?? []
  report(`Metrics, ${path}`, VARIANTS.map(variant => {
    const own = rounds.get(variant) ?? []
    const ratiosOf = (what: keyof Round) => own.map((round, at) => round[what] / (base[at]?.[what] ?? NaN))
    const summary = (values: number[]) =>
      `${at(values, 0.5).toFixed(3)} (${at(values, 0.25).toFixed(3)} to ${at(values, 0.75).toFixed(3)})`
    return {
      variant,
      'requests/s': Math.round(at(own.map(({ rate }) => rate), 0.5)),
      'of without (middle half)': summary(ratiosOf('rate')),
      'CPU µs a request': at(own.map(({ micros }) => micros), 0.5).toFixed(1),
      'CPU of without': summary(ratiosOf('micros'))
    }
  }))
}
await stopServers(servers)
await stopAll()
