// Drives a running demo like its visitors would, and prints figures:
// `npm run load -- [--url http://127.0.0.1:3000] [--duration 30] [--rate 200]` (seconds, requests per second). Ctrl-C
// stops it. Visitors have their own addresses in X-Forwarded-For and, if the demo runs on this machine, as source
// addresses. Otherwise the demo limits them all as one visitor: start it with RATE_LIMIT_MAX=0, which is no limit.
import { Agent, request, type IncomingHttpHeaders, type RequestOptions } from 'node:http'
import { text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import { DEMO_PASSWORD } from '../demo/seed.js'

const TICK_MS = 20
const TABLE_MS = 1000
const BURST_EVERY_MS = 5000
const BURST = 150
const MAX_IN_FLIGHT = 1000
const TIMEOUT_MS = 5000
const SHOPPERS = 5
const SHOPPING_PAUSE_MS = 1000
/** The number of latest requests that p50 and p99 are computed from. */
const MAX_SAMPLES = 10_000

type Kind = 'product' | 'search' | 'leaderboard' | 'login' | 'cart' | 'order' | 'burst'

/** The shares of the kinds of requests, in percent. */
const WEIGHTS: Array<[Kind, number]> = [['product', 75], ['search', 15], ['leaderboard', 10]]
const SEARCHES = ['teapot', 'copper kettle', 'lamp', 'wool', 'oak table', 'blue', 'glass', 'chair']

interface Figures {
  times: number[]
  count: number
  /** The count at the previous table. */
  countBefore: number
  hits: number
  limited: number
  failed: number
}

interface Answer { status: number, headers: IncomingHttpHeaders, text: string }

interface Call {
  method?: 'GET' | 'POST' |
  'DELETE',
  path: string,
  visitor: number,
  body?: object,
  cookie?: string | undefined
}

const { values } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:3000' },
    duration: { type: 'string', default: '30' },
    rate: { type: 'string', default: '200' }
  }
})
const url = new URL(values.url)
const durationMs = positive('duration', values.duration) * 1000
const rate = positive('rate', values.rate)
// 60 requests per minute each, below the demo's limit of 100.
const visitors = Math.max(10, Math.ceil(rate))
let hasLocalAddresses = process.platform === 'linux' && url.hostname === '127.0.0.1'

const agent = new Agent({ keepAlive: true })
const figures = new Map<Kind, Figures>()
/** The number of failures by kind. */
const failures = new Map<string, number>()
const inFlight = new Set<Promise<unknown>>()
let unsent = 0
const stopping = new AbortController()

function positive (name: string, text: string): number {
  const value = Number(text)
  if (value > 0 && Number.isFinite(value)) return value
  console.error(`--${name} is a number above 0, not ${text}`)
  process.exit(2)
}

function send (kind: Kind, call: Call): Promise<Answer | undefined> {
  const of = figures.get(kind) ?? { times: [], count: 0, countBefore: 0, hits: 0, limited: 0, failed: 0 }
  figures.set(kind, of)
  const began = performance.now()
  const sent = exchange(call).then(answer => {
    of.times.push(performance.now() - began)
    if (of.times.length > 2 * MAX_SAMPLES) of.times.splice(0, MAX_SAMPLES)
    of.count++
    if (answer.headers['x-cache'] === 'HIT') of.hits++
    if (answer.status === 429) of.limited++
    else if (answer.status >= 400) fail(`${answer.status} ${answer.text}`)
    return answer
  }, (error: Error) => {
    of.count++
    fail(error.message)
    return undefined
  })
  function fail (reason: string) {
    of.failed++
    failures.set(`${kind}: ${reason}`, 1 + (failures.get(`${kind}: ${reason}`) ?? 0))
  }
  const tracked = sent.finally(() => inFlight.delete(tracked))
  inFlight.add(tracked)
  return sent
}

function exchange ({ method = 'GET', path, visitor, body, cookie }: Call): Promise<Answer> {
  const payload = body === undefined ? undefined : JSON.stringify(body)
  const options: RequestOptions = {
    method,
    agent,
    timeout: TIMEOUT_MS,
    headers: {
      'x-forwarded-for': addressOf(10, visitor),
      ...payload !== undefined && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) },
      ...cookie !== undefined && { cookie }
    },
    ...hasLocalAddresses && { localAddress: addressOf(127, visitor) }
  }
  return new Promise((resolve, reject) => {
    const asked = request(new URL(path, url), options, response => {
      const { statusCode: status = 500, headers } = response
      text(response).then(text => resolve({ status, headers, text }), reject)
    })
    asked.on('timeout', () => asked.destroy(new Error('no answer')))
    asked.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRNOTAVAIL') hasLocalAddresses = false
      reject(error)
    })
    asked.end(payload)
  })
}

function addressOf (net: number, visitor: number): string {
  return `${net}.${1 + (visitor >> 16)}.${visitor >> 8 & 255}.${visitor & 255}`
}

/** Prefers few products, as visitors do. */
function somePath (kind: Kind): string {
  if (kind === 'product') return `/products/${1 + Math.floor(200 * Math.random() ** 3)}`
  if (kind === 'search') {
    return `/products/search?q=${encodeURIComponent(SEARCHES[Math.floor(SEARCHES.length * Math.random())] ?? '')}`
  }
  return '/leaderboard'
}

function someKind (): Kind {
  let left = 100 * Math.random()
  for (const [kind, weight] of WEIGHTS) {
    left -= weight
    if (left < 0) return kind
  }
  return 'product'
}

/** Logs in, and places one order after another until the end. */
async function shop (shopper: number): Promise<void> {
  const visitor = visitors + shopper
  const credentials = { email: `user${1 + Math.floor(1000 * Math.random())}@example.com`, password: DEMO_PASSWORD }
  const login = await send('login', { method: 'POST', path: '/login', visitor, body: credentials })
  const cookie = login?.headers['set-cookie']?.[0]?.split(';')[0]
  while (!stopping.signal.aborted) {
    const productId = 1 + Math.floor(1000 * Math.random())
    await send('cart', { method: 'POST', path: '/cart/items', visitor, cookie, body: { productId, quantity: 1 } })
    const order = await send('order', { method: 'POST', path: '/orders', visitor, cookie })
    // Out of stock: a retry would fail as well.
    if (order?.status === 409) {
      await send('cart', { method: 'DELETE', path: `/cart/items/${productId}`, visitor, cookie })
    }
    await pause(2 * SHOPPING_PAUSE_MS * Math.random())
  }
}

/** One visitor who exceeds the limit. */
function burst (): void {
  for (let i = 0; i < BURST; i++) send('burst', { path: '/', visitor: visitors + SHOPPERS }).catch(() => {})
}

function pause (ms: number): Promise<void> {
  return new Promise(resolve => {
    const timer = setTimeout(done, ms)
    function done () {
      clearTimeout(timer)
      stopping.signal.removeEventListener('abort', done)
      resolve()
    }
    stopping.signal.addEventListener('abort', done, { once: true })
  })
}

/** Sends the requests that are due, without waiting for earlier ones: a slow server does not slow its visitors down. */
async function browse (): Promise<void> {
  const began = performance.now()
  for (let sent = 0; !stopping.signal.aborted; await pause(TICK_MS)) {
    for (const due = (performance.now() - began) / 1000 * rate; sent < due; sent++) {
      if (inFlight.size >= MAX_IN_FLIGHT) {
        unsent++
        continue
      }
      const kind = someKind()
      send(kind, { path: somePath(kind), visitor: sent % visitors }).catch(() => {})
    }
  }
}

function showTable (seconds: number): void {
  if (process.stdout.isTTY) process.stdout.write('\x1b[H\x1b[2J')
  const rows = [...figures].map(([kind, { times, count, countBefore, hits, limited, failed }]) => {
    const sorted = times.slice(-MAX_SAMPLES).sort((a, b) => a - b)
    const at = (part: number) => `${(sorted[Math.floor(sorted.length * part)] ?? 0).toFixed(1)} ms`
    return [
      kind, ((count - countBefore) / seconds).toFixed(0), at(0.5), at(0.99),
      `${(100 * hits / Math.max(1, count)).toFixed(0)} %`, String(limited), String(failed)
    ]
  })
  for (const of of figures.values()) of.countBefore = of.count
  const lines = [['', 'requests/s', 'p50', 'p99', 'hits', '429', 'failed'], ...rows]
  for (const line of lines) console.log(line.map((cell, i) => i === 0 ? cell.padEnd(12) : cell.padStart(11)).join(''))
  console.log(`${inFlight.size} under way${unsent > 0 ? `, ${unsent} not sent as too many were` : ''}\n`)
}

const reachable = await exchange({ path: '/health/live', visitor: 0 }).catch((error: Error) => {
  console.error(`${url.href} does not answer (${error.message}); start the demo first, or say --url`)
})
if (reachable === undefined) process.exit(1)

const stop = () => stopping.abort()
process.once('SIGINT', stop).once('SIGTERM', stop)
const end = setTimeout(stop, durationMs)
const bursts = setInterval(burst, BURST_EVERY_MS)
let shownAt = performance.now()
const tables = setInterval(() => {
  showTable((performance.now() - shownAt) / 1000)
  shownAt = performance.now()
}, TABLE_MS)
const began = performance.now()
burst()
await Promise.all([browse(), ...Array.from({ length: SHOPPERS }, async (_, i) => await shop(i))])
clearTimeout(end)
clearInterval(bursts)
clearInterval(tables)
await Promise.allSettled(inFlight)
for (const of of figures.values()) of.countBefore = 0
console.log(`all of ${((performance.now() - began) / 1000).toFixed(1)} s:`)
showTable((performance.now() - began) / 1000)
for (const [what, times] of failures) console.log(`failed ${times} times, ${what}`)
agent.destroy()
