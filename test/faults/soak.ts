// Drives two instances with all plugins under a steady mixed load for a long time, and checks whether a figure grows.
// `npm run test:soak [-- --minutes 10]`; the first fifth is a warm-up.
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { stopAll } from '../../tools/servers/registry.js'
import { startRedis } from '../helpers/servers/redis-server.js'
import { keysWithoutTtl } from './drive.js'
import { ask, logIn, startLoad } from './load.js'
import { startShop, type Measured } from './shop.js'

const MEASUREMENTS = 10
const MOST_GROWTH = 1.1

const { values: { minutes } } = parseArgs({ options: { minutes: { type: 'string', default: '10' } } })
const totalMs = Number(minutes) * 60_000
const server = await startRedis()
const shop = await startShop({ url: server.url })
const load = startLoad(shop, await logIn(shop))
// New visitors and pages all the time, in addition to returning ones.
const wander = setInterval(() => {
  const id = Math.floor(Math.random() * 500)
  for (const path of [`/products/${id}`, `/values/${id}`, `/limited/${id}`]) ask(shop, id, path).catch(() => {})
  ask(shop, id, `/login/visitor${id}`, { method: 'POST' }).catch(() => {})
}, 50)

await sleep(totalMs / 5)
const measured: Measured[][] = []
for (let i = 0; i < MEASUREMENTS; i++) {
  measured.push(await Promise.all(shop.instances.map(instance => instance.measure())))
  console.log(measured.at(-1)?.map(({ heap, resources, listeners }) => `${(heap / 2 ** 20).toFixed(1)} MiB, ${resources} handles, ${listeners} listeners`).join(' | '))
  await sleep(totalMs * 0.8 / MEASUREMENTS)
}
clearInterval(wander)
await load.stop()
const stale = load.samples.filter(({ staleMs }) => staleMs > 100).length
const failed = load.samples.filter(({ status }) => status === 0 || status >= 500).length
const immortal = await keysWithoutTtl([server])
shop.close()
await stopAll()

/** Compares the last three samples with the first three, so that one outlier does not count. */
function growth (instance: number, what: keyof Measured): number {
  const lowest = (some: Measured[][]) => Math.min(...some.map(row => row[instance]?.[what] ?? NaN))
  return lowest(measured.slice(-3)) / lowest(measured.slice(0, 3))
}

const problems = [...shop.problems]
for (const instance of shop.instances.keys()) {
  for (const what of ['heap', 'resources', 'listeners'] as const) {
    const by = growth(instance, what)
    console.log(`instance ${instance}: ${what} x${by.toFixed(3)}`)
    if (!(by <= (what === 'heap' ? MOST_GROWTH : 1))) problems.push(`${what} of instance ${instance} grew by ${by.toFixed(3)}`)
  }
}
if (failed > 0) problems.push(`${failed} requests failed`)
if (stale > 0) problems.push(`${stale} stale answers`)
if (immortal.length > 0) problems.push(`${immortal.length} keys without a TTL: ${immortal.slice(0, 3).join(', ')}`)
console.log(`${load.samples.length} requests in ${minutes} min; ${problems.length === 0 ? 'nothing grows' : problems.join('; ')}`)
process.exit(problems.length === 0 ? 0 : 1)
