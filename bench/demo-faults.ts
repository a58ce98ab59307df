import { setTimeout as sleep } from 'node:timers/promises'
import { buildApp } from '../app.js'
import { readConfig } from '../demo/config.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import type { Row } from './frame/markdown.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'

// Drives the demo at a steady rate while its Redis is killed or hung, and restarted. Counts the outcome of each
// request, and measures how long it takes until Redis is used again.
const FAULTS: Readonly<Record<string, { begin: () => Promise<void>, end: () => Promise<void> }>> = {
  killed: { begin: () => redis.kill(), end: () => redis.restart() },
  hung: { begin: async () => { redis.pause() }, end: async () => { redis.resume() } }
}
const options = readOptions(Object.keys(FAULTS))
const report = new Report(options.isQuick)
const RATE = 200
/** By then the app has noticed the fault. */
const NOTICED_MS = 1500
const [BEFORE_MS, FAULT_MS, AFTER_MS] = options.isQuick ? [500, 2000, 2000] : [2000, 4000, 5000]

interface Sample { at: number, status: number, ms: number, cache: string | null }

const redis = await startRedis()

/** Drives the app at the rate while `fault` runs. */
async function drive (address: string, fault: () => Promise<void>): Promise<Sample[]> {
  const samples: Sample[] = []
  const pending: Array<Promise<void>> = []
  const ask = async () => {
    const at = performance.now()
    const response = await fetch(`${address}/products/${1 + Math.floor(Math.random() * 20)}`).catch(() => undefined)
    await response?.arrayBuffer()
    samples.push({
      at, status: response?.status ?? 0, ms: performance.now() - at, cache: response?.headers.get('x-cache') ?? null
    })
  }
  const timer = setInterval(() => { for (let i = 0; i < RATE / 50; i++) pending.push(ask()) }, 20)
  await fault()
  clearInterval(timer)
  await Promise.all(pending)
  return samples
}

async function measure (name: string, begin: () => Promise<void>, end: () => Promise<void>): Promise<Row> {
  const app = await buildApp(readConfig({ REDIS_URL: redis.url, RATE_LIMIT_MAX: '100000' }))
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  let [faultAt, backAt] = [0, 0]
  const samples = await drive(address, async () => {
    await sleep(BEFORE_MS)
    faultAt = performance.now()
    await begin()
    await sleep(FAULT_MS)
    await end()
    backAt = performance.now()
    await sleep(AFTER_MS)
  })
  await app.close()
  const during = samples.filter(({ at }) => at >= faultAt && at < backAt)
  const late = during.filter(({ at }) => at >= faultAt + NOTICED_MS)
  const usedAgain = samples.filter(({ at, cache }) => at >= backAt && cache === 'HIT').map(({ at }) => at - backAt)
  const failed = samples.filter(({ status }) => status !== 200).length
  report.add(`Redis ${name}`, [{ variant: 'this suite', rounds: [{ failed, reasons: ['not 200'] }] }])
  return {
    Redis: name,
    requests: samples.length,
    'not 200': failed,
    'slowest in the fault (ms)': Math.round(Math.max(...during.map(({ ms }) => ms))),
    'slowest once noticed (ms)': Math.round(Math.max(...late.map(({ ms }) => ms))),
    'slower than 100 ms': during.filter(({ ms }) => ms > 100).length,
    'used again after (ms)': Math.round(Math.min(...usedAgain))
  }
}

const rows: Row[] = []
for (const [name, { begin, end }] of Object.entries(FAULTS)) {
  if (options.parts.has(name)) rows.push(await measure(name, begin, end))
}
await stopAll()
report.table('A product page while Redis is unavailable', rows)
report.end()
