import type { LiveEvent, Sample } from '../../demo/live-events.js'
import { send, type ApiResponse } from '../api.js'
import { Chart } from '../chart.js'
import { announce, find, make, onPress, show, toggle, write } from '../dom.js'
import { number, percent } from '../format.js'

const PRODUCT = 1
const TRAIL_LENGTH = 8
/** The number of products of steady reads: enough for a miss now and then. */
const STEADY_PRODUCTS = 30
const STEADY_MS = 100

/** @returns a function that draws a second's samples, one per instance */
export function cachePanel (): (samples: ReadonlyArray<LiveEvent<Sample>>) => void {
  const ratio = new Chart(find('ratio-chart', HTMLElement), [{ label: 'hit ratio', filled: true }], 100)
  const latency = new Chart(
    find('latency-chart', HTMLElement), [{ label: 'hit' }, { label: 'miss', dashed: true, joined: true }], 'log'
  )
  let time = { hit: '–', miss: '–' }

  onPress('read', async () => showResponse(await read(PRODUCT)))
  onPress('invalidate', async () => {
    const { status } = await send('POST', '/live/invalidate', { body: { tag: `product:${PRODUCT}` } })
    addToTrail(status === 200 ? 'invalidated' : `not invalidated: ${status}`, `tag product:${PRODUCT}`)
    showResponse(await read(PRODUCT))
  })
  toggle('steady-reads', STEADY_MS, () => { read(1 + Math.floor(Math.random() * STEADY_PRODUCTS)).catch(() => {}) })

  return samples => {
    const sum = (of: (sample: Sample) => number) => samples.reduce((total, sample) => total + of(sample), 0)
    const hits = sum(({ cache }) => cache.hits + cache.stale)
    const misses = sum(({ cache }) => cache.misses)
    const hitRatio = hits + misses === 0 ? null : hits / (hits + misses) * 100
    const [hit, miss] = [mean(samples, 'hitTime'), mean(samples, 'missTime')]
    time = { hit: hit === null ? time.hit : number(hit), miss: miss === null ? time.miss : number(miss) }
    ratio.add([hitRatio])
    latency.add([hit, miss])
    write('cache-ratio', percent(hitRatio))
    write('cache-hits', number(hits))
    write('cache-misses', number(misses))
    write('cache-entries', number(samples[0]?.store.entries))
    write('cache-entries-name', samples[0]?.store.isRedis ? 'Keys in Redis' : 'Entries')
    write('cache-l1', number(sum(({ store }) => store.l1Entries)))
    write('hit-time', time.hit)
    write('miss-time', time.miss)
  }
}

function mean (samples: readonly Sample[], of: 'hitTime' | 'missTime'): number | null {
  const count = samples.reduce((total, { cache }) => total + cache[of].count, 0)
  return count === 0 ? null : samples.reduce((total, { cache }) => total + cache[of].ms, 0) / count
}

async function read (product: number): Promise<ApiResponse> {
  return await send('GET', `/live/products/${product}`)
}

function showResponse ({ status, cache, ms, instance }: ApiResponse): void {
  const outcome = status === 200 ? cache || 'not cached' : `status ${status}`
  addToTrail(outcome, `${number(ms)} ms, ${instance}`)
  announce(`${outcome} in ${number(ms)} milliseconds`)
}

function addToTrail (outcome: string, detail: string): void {
  const trail = find('trail', HTMLOListElement)
  trail.prepend(
    make('li', { className: outcome.toLowerCase() }, make('b', { text: outcome }), make('span', { text: detail }))
  )
  while (trail.children.length > TRAIL_LENGTH) trail.lastElementChild?.remove()
  show('trail-empty', false)
}
