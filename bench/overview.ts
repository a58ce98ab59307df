// The overview of all plugins, made of the tables of the benchmarks.
import { markdown, type Row } from './run.js'

export type Tables = ReadonlyMap<string, readonly Row[]>

interface Line {
  what: string
  /** The title of a table, or its beginning. */
  table: string
  suite: string
  /** The variants of the table, by their names in the overview. */
  peers: Record<string, string>
  /** The compared figure, if it is not requests per second. */
  figure?: string
}

const LIMITERS = {
  '`@fastify/rate-limit`': '@fastify/rate-limit, Redis', '`rate-limiter-flexible`': 'rate-limiter-flexible, Redis'
}
const SESSIONS = {
  '`@fastify/session`': '@fastify/session, rolling', 'with `rolling: false`': '@fastify/session, rolling: false'
}
const VALUES = { '`bentocache`': 'bentocache', '`cacheable`': 'cacheable' }
const WHOLE = {
  table: 'All together',
  peers: {
    '`@fastify/rate-limit`, `@fastify/session`, `bentocache`': 'peers',
    'with `rolling: false`': 'peers, rolling: false'
  }
}

const LINES: readonly Line[] = [
  { what: 'rate limit, allowed', table: 'Rate limit, allowed', suite: 'suite, Redis', peers: LIMITERS },
  { what: 'rate limit, refused', table: 'Rate limit, refused', suite: 'suite, Redis', peers: LIMITERS },
  {
    what: 'rate limit, in memory',
    table: 'Rate limit, allowed',
    suite: 'suite, memory',
    peers: { '`@fastify/rate-limit`': '@fastify/rate-limit, memory' }
  },
  { what: 'session that is read', table: 'Session, /read', suite: 'this suite', peers: SESSIONS },
  { what: 'session that changes', table: 'Session, /write', suite: 'this suite', peers: SESSIONS },
  {
    what: 'cached response of 1 KiB, L1',
    table: 'Cached answer, 1 KiB',
    suite: 'suite, L1 hit',
    peers: { nginx: 'nginx, hit' }
  },
  {
    what: 'the same out of Redis, 100 keys',
    table: 'Cached answer, 1 KiB',
    suite: 'suite, L2 hit, 100 keys',
    peers: { 'bare + `GET`': 'bare + GET, the body' }
  },
  { what: 'value, L1', table: 'Hit in this process', suite: 'this suite', peers: VALUES, figure: 'µs, one caller' },
  {
    what: 'value out of Redis, 50 callers',
    table: 'Hit in Redis',
    suite: 'this suite',
    peers: VALUES,
    figure: 'a second, 50 callers'
  },
  { ...WHOLE, what: '**all together**', suite: 'this suite' },
  { ...WHOLE, what: '**all together**, `early` limit', suite: 'this suite, early' },
  {
    what: '**all together**, no L1',
    table: 'All together',
    suite: 'this suite, without L1',
    peers: { 'the same': 'peers, without L1', 'with `rolling: false`': 'peers, rolling: false, without L1' }
  },
  {
    what: '**all together**, in memory',
    table: 'All together',
    suite: 'this suite, memory',
    peers: { 'the same': 'peers, memory' }
  }
]

/** Returns one line per measurement. */
export function overview (tables: Tables): string {
  return markdown(LINES.flatMap(line => lineOf(line, tables)))
}

function lineOf ({ what, table, suite, peers, figure }: Line, tables: Tables): Row[] {
  const rows = [...tables].find(([title]) => title.startsWith(table))?.[1] ?? []
  const find = (variant: string) => rows.find(row => row['variant'] === variant)
  const own = find(suite)
  if (own === undefined) return []
  const found = Object.entries(peers).flatMap(([name, variant]) => {
    const row = find(variant)
    return row === undefined ? [] : [{ name, row }]
  })
  const each = (cell: (row: Row) => string | number | undefined) =>
    found.map(({ row }) => cell(row) ?? '–').join('; ')
  return [{
    ' ': what,
    beside: found.map(({ name }) => name).join('; '),
    'as quick': each(row => ratio(own, row, figure)),
    'of bare': own['of bare'] ?? '–',
    'peers, of bare': each(row => row['of bare']),
    'p99 ms': own['p99 ms'] ?? '–',
    'peers, p99 ms': each(row => row['p99 ms']),
    'Redis commands': own['Redis commands'] ?? '–',
    'peers, commands': each(row => row['Redis commands'])
  }]
}

/** Returns how many times faster the suite is. */
function ratio (own: Row, peer: Row, figure = 'requests/s'): string {
  const [ours, theirs] = [numberOf(own[figure]), numberOf(peer[figure])]
  return `${(figure.startsWith('µs') ? theirs / ours : ours / theirs).toFixed(2)} ×`
}

function numberOf (cell: string | number | undefined): number {
  return Number(String(cell).replaceAll(',', ''))
}
