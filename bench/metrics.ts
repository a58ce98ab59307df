// What the metrics cost: requests a second of one Fastify process with the cache, the limiter and sessions, with and without them, in rounds
// that take turns. Told is the median of the ratios of rounds that stand beside each other, as the machine's own drift is greater than that.
import { fork } from 'node:child_process'
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

async function load ({ variant, address, cookie }: typeof servers[number], path: string): Promise<number> {
  // Fifteen times as often as Prometheus would.
  const scraping = variant === 'with, scraped' ? setInterval(() => { fetch(`${address}/metrics`).then(r => r.text()).catch(() => {}) }, 1000) : undefined
  const { requests, non2xx } = await autocannon({ url: address + path, connections: 50, duration: SECONDS, headers: { cookie } })
  clearInterval(scraping)
  if (non2xx > 0) throw new Error(`${non2xx} were refused`)
  return requests.average
}

function quantile (values: number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length * part)] ?? NaN
}

for (const path of ['/cached/1', '/plain']) {
  const rates = new Map(VARIANTS.map(variant => [variant, [] as number[]]))
  for (const server of servers) await load(server, path)
  for (let round = 0; round < ROUNDS; round++) {
    // There and back, so that none always stands first.
    for (const server of round % 2 === 0 ? servers : [...servers].reverse()) rates.get(server.variant)?.push(await load(server, path))
  }
  const base = rates.get('without') ?? []
  console.log(`\n${path}`)
  console.table(VARIANTS.map(variant => {
    const ratios = (rates.get(variant) ?? []).map((rate, round) => rate / (base[round] ?? NaN))
    return {
      variant,
      'requests/s': Math.round(quantile(rates.get(variant) ?? [], 0.5)),
      'of without': quantile(ratios, 0.5).toFixed(3),
      'middle half': `${quantile(ratios, 0.25).toFixed(3)} to ${quantile(ratios, 0.75).toFixed(3)}`
    }
  }))
}
for (const { child } of servers) child.kill()
await stopAll()
