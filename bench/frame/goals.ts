// The rows of the table at the end of `npm run bench`: data alone.

export interface Goal {
  row: string
  /** The title of a result. */
  title: string
  ours: string
  /** The variants to compare with: the best of them counts. A bare route is no peer, so no row is behind it. */
  beside: readonly string[]
  /** The ratio to the best of them that is to be reached, by throughput and by CPU. */
  atLeast?: number
  /** The memory of an item in Redis that is not to be exceeded. */
  mostBytes?: number
}

const SESSION = '@fastify/session, rolling'
const SESSION_OFF = '@fastify/session, rolling: false'
const CACHES = ['bentocache', 'async-cache-dedupe', 'cacheable']
const LIMITERS = ['@fastify/rate-limit, Redis', 'rate-limiter-flexible, Redis']
const ALLOWED = 'Rate limit, allowed'
const REFUSED = 'Rate limit, refused'
const RESPONSE = 'Response cache, 1 KiB'
const WHOLE = 'All together'
const SUITE = 'this suite'

export const GOALS: readonly Goal[] = [
  {
    row: 'session that changes', title: 'Session, /write', ours: SUITE, beside: [SESSION, SESSION_OFF], atLeast: 1.3
  },
  {
    row: 'session that is read, peer\'s defaults', title: 'Session, /read', ours: SUITE, beside: [SESSION], atLeast: 2
  },
  {
    row: 'session that is read, `rolling: false`',
    title: 'Session, /read',
    ours: SUITE,
    beside: [SESSION_OFF],
    atLeast: 1.7
  },
  {
    row: 'session of 300 bytes, memory of Redis',
    title: 'Session, memory of Redis',
    ours: SUITE,
    beside: [SESSION, SESSION_OFF],
    mostBytes: 900
  },
  {
    row: 'data cache, miss, 50 callers; peer that coalesces and has tags',
    title: 'Data cache, miss, 50 callers',
    ours: SUITE,
    beside: ['bentocache'],
    atLeast: 1
  },
  {
    row: 'data cache, miss, 50 callers; peers that neither coalesce across instances nor refuse stale fills',
    title: 'Data cache, miss, 50 callers',
    ours: SUITE,
    beside: ['async-cache-dedupe', 'cacheable'],
    atLeast: 0.5
  },
  { row: 'data cache, miss, one caller', title: 'Data cache, miss, one caller', ours: SUITE, beside: CACHES },
  {
    row: 'data cache, hit in Redis, 50 callers',
    title: 'Data cache, hit in Redis, 50 callers',
    ours: SUITE,
    beside: CACHES,
    atLeast: 1
  },
  {
    row: 'data cache, hit in Redis, one caller',
    title: 'Data cache, hit in Redis, one caller',
    ours: SUITE,
    beside: CACHES,
    atLeast: 1
  },
  {
    row: 'data cache, hit in L1, a copy for each caller',
    title: 'Data cache, hit in L1',
    ours: SUITE,
    beside: ['bentocache', 'cacheable'],
    atLeast: 3
  },
  {
    row: 'data cache, hit in L1, one object for all callers (`freeze`)',
    title: 'Data cache, hit in L1',
    ours: 'this suite, freeze',
    beside: ['async-cache-dedupe'],
    atLeast: 1
  },
  {
    row: 'response from Redis, 100 keys of 1 KiB',
    title: RESPONSE,
    ours: 'this suite, L2 hit, 100 keys',
    beside: ['bare + GET, the body'],
    atLeast: 0.95
  },
  { row: 'response from L1', title: RESPONSE, ours: 'this suite, L1 hit', beside: ['bare'], atLeast: 0.92 },
  {
    row: 'response from L1, beside a route with the same hooks and fields',
    title: RESPONSE,
    ours: 'this suite, L1 hit',
    beside: ['bare + hooks and fields']
  },
  {
    row: 'response from L1, beside nginx',
    title: RESPONSE,
    ours: 'this suite, L1 hit',
    beside: ['nginx, hit'],
    atLeast: 1
  },
  {
    row: 'response, miss, each another key', title: RESPONSE, ours: 'this suite, miss', beside: ['bare'], atLeast: 0.3
  },
  { row: 'limiter in memory', title: ALLOWED, ours: 'this suite, memory', beside: ['bare'], atLeast: 0.95 },
  {
    row: 'limiter in memory, beside a route with the same hook and fields',
    title: ALLOWED,
    ours: 'this suite, memory',
    beside: ['bare + hook and fields']
  },
  {
    row: 'limiter in memory, beside a peer',
    title: ALLOWED,
    ours: 'this suite, memory',
    beside: ['@fastify/rate-limit, memory']
  },
  {
    row: 'limiter on Redis, one key', title: ALLOWED, ours: 'this suite, Redis', beside: ['bare + GET'], atLeast: 1
  },
  { row: 'limiter on Redis, one key, beside peers', title: ALLOWED, ours: 'this suite, Redis', beside: LIMITERS },
  {
    row: 'limiter on Redis, a key a request',
    title: ALLOWED,
    ours: 'this suite, Redis, a key a request',
    beside: ['bare + GET'],
    atLeast: 0.9
  },
  {
    row: 'limiter on Redis, a key a request, beside peers',
    title: ALLOWED,
    ours: 'this suite, Redis, a key a request',
    beside: LIMITERS.map(peer => `${peer}, a key a request`)
  },
  { row: 'limiter, refused', title: REFUSED, ours: 'this suite, Redis', beside: ['bare'], atLeast: 0.95 },
  {
    row: 'limiter, refused, beside a route with the same hook and fields',
    title: REFUSED,
    ours: 'this suite, Redis',
    beside: ['bare + hook and fields']
  },
  { row: 'limiter, refused, beside peers', title: REFUSED, ours: 'this suite, Redis', beside: LIMITERS },
  { row: 'all together, peers\' defaults', title: WHOLE, ours: SUITE, beside: ['peers'], atLeast: 2 },
  { row: 'all together, `rolling: false`', title: WHOLE, ours: SUITE, beside: ['peers, rolling: false'], atLeast: 1.7 },
  {
    row: 'all together, `early` limit',
    title: WHOLE,
    ours: 'this suite, early',
    beside: ['peers', 'peers, rolling: false']
  },
  {
    row: 'all together, without L1',
    title: WHOLE,
    ours: 'this suite, without L1',
    beside: ['peers, without L1', 'peers, rolling: false, without L1']
  },
  { row: 'all together, in memory', title: WHOLE, ours: 'this suite, memory', beside: ['peers, memory'] }
]
