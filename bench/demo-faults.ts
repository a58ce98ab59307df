import { setTimeout as sleep } from 'node:timers/promises'
import { buildApp } from '../app.js'
import { readConfig } from '../demo/config.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'

// Drives the demo at a steady rate while its Redis is killed or hung, and restarted. Counts the outcome of each
// request, and measures how long it takes until Redis is used again.
const RATE = 200
const BEFORE_MS = 2000
const FAULT_MS = 4000
const AFTER_MS = 5000

interface Sample { at: number, status: number, ms: number, cache: string | null }

const redis = await startRedis()

for (const [name, begin, end] of [
  ['killed', () => redis.kill(), () => redis.restart()],
  ['hung (SIGSTOP)', async () => { redis.pause() }, async () => { redis.resume() }]
] as const) {
  const app = await buildApp(readConfig({ REDIS_URL: redis.url, RATE_LIMIT_MAX: '100000' }))
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  const samples: Sample[] = []
  const pending: Array<Promise<void>> = []

  async function ask (): Promise<void> {
    const at = performance.now()
    const response = await fetch(`${address}/products/${1 + Math.floor(Math.random() * 20)}`).catch(() => undefined)
    await response?.arrayBuffer()
    samples.push({
      at, status: response?.status ?? 0, ms: performance.now() - at, cache: response?.headers.get('x-cache') ?? null
    })
  }

  const timer = setInterval(() => { for (let i = 0; i < RATE / 50; i++) pending.push(ask()) }, 20)
  await sleep(BEFORE_MS)
  const faultAt = performance.now()
  await begin()
  await sleep(FAULT_MS)
  await end()
  const backAt = performance.now()
  await sleep(AFTER_MS)
  clearInterval(timer)
  await Promise.all(pending)

  const during = samples.filter(({ at }) => at >= faultAt && at < backAt)
  const late = samples.filter(({ at }) => at >= faultAt + 1500 && at < backAt)
  const usedAgain = samples.filter(({ at, cache }) => at >= backAt && cache === 'HIT').map(({ at }) => at - backAt)
  console.table([{
    redis: name,
    requests: samples.length,
    'not 200': samples.filter(({ status }) => status !== 200).length,
    'slowest in the fault (ms)': Math.round(Math.max(...during.map(({ ms }) => ms))),
    'slowest once noticed (ms)': Math.round(Math.max(...late.map(({ ms }) => ms))),
    'slower than 100 ms': during.filter(({ ms }) => ms > 100).length,
    'used again after (ms)': Math.round(Math.min(...usedAgain))
  }])
  await app.close()
}
await stopAll()
