// What the metrics cost: requests a second, and CPU time a request, of one Fastify process with the cache, the limiter and sessions, with and
// without them, in rounds that take turns. Told is the median of the ratios of rounds that stand beside each other, as the machine's own drift is
// greater than what is measured; where others use the machine as well, the CPU time is the better measure.
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import autocannon from 'autocannon'
import { startRedis } from '../test/helpers/redis-server.js'
import { stopAll } from '../test/helpers/registry.js'

const ROUNDS = Number(process.env['ROUNDS'] ?? 15)
const SECONDS = Number(process.env['SECONDS'] ?? 3)
const VARIANTS = ['without', 'with', 'with, tracing', 'with, scraped']

const redis = await startRedis()
const servers = await Promise.all(VARIANTS.map(async variant => {
  const child = fork(new URL('./metrics-server.ts', import.meta.url), [variant, redis.url], { execArgv: ['--import', 'tsx'] })
  const [address] = await once(child, 'message') as [string]
  const visit = await fetch(`${address}/visit`, { method: 'POST' })
  const cookie = visit.headers.get('set-cookie')?.split(';', 1)[0] ?? ''
  return { variant, child, address, cookie }
}))

interface Round { rate: number, micros: number }

async function cpuOf (child: ChildProcess): Promise<number> {
  child.send('cpu')
  const [{ user, system }] = await once(child, 'message') as [NodeJS.CpuUsage]
  return user + system
}

async function load ({ variant, child, address, cookie }: typeof servers[number], path: string): Promise<Round> {
  // Fifteen times as often as Prometheus would.
  const scraping = variant === 'with, scraped' ? setInterval(() => { fetch(`${address}/metrics`).then(r => r.text()).catch(() => {}) }, 1000) : undefined
  const before = await cpuOf(child)
  const { requests, non2xx } = await autocannon({ url: address + path, connections: 50, duration: SECONDS, headers: { cookie } })
  clearInterval(scraping)
  if (non2xx > 0) throw new Error(`${non2xx} were refused`)
  return { rate: requests.average, micros: (await cpuOf(child) - before) / requests.total }
}

function quantile (values: number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length * part)] ?? NaN
}

for (const path of ['/cached/1', '/plain']) {
  const rounds = new Map(VARIANTS.map(variant => [variant, [] as Round[]]))
  for (const server of servers) await load(server, path)
  for (let at = 0; at < ROUNDS; at++) {
    // There and back, so that none always stands first.
    for (const server of at % 2 === 0 ? servers : [...servers].reverse()) rounds.get(server.variant)?.push(await load(server, path))
  }
  const base = rounds.get('without') ?? []
  console.log(`\n${path}`)
  console.table(VARIANTS.map(variant => {
    const own = rounds.get(variant) ?? []
    const ratiosOf = (what: keyof Round) => own.map((round, at) => round[what] / (base[at]?.[what] ?? NaN))
    const told = (values: number[]) => `${quantile(values, 0.5).toFixed(3)} (${quantile(values, 0.25).toFixed(3)} to ${quantile(values, 0.75).toFixed(3)})`
    return {
      variant,
      'requests/s': Math.round(quantile(own.map(({ rate }) => rate), 0.5)),
      'of without (middle half)': told(ratiosOf('rate')),
      'CPU µs a request': quantile(own.map(({ micros }) => micros), 0.5).toFixed(1),
      'of without': told(ratiosOf('micros'))
    }
  }))
}
for (const { child } of servers) child.kill()
await stopAll()
