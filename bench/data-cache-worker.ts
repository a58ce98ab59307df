// Measures one library and one row of `bench/data-cache.ts` in its own process:
// `tsx bench/data-cache-worker.ts <library> <row> <redis url>`.
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { Redis } from 'ioredis'
import { PEERS, type Arrangement, type Peer } from './data-cache-peers.js'
import { fillByFormat, nameOf } from './data-cache-fill.js'

export type Figures = Record<string, number>

/** A round of a row, with the commands that Redis executed for it. */
export interface Round {
  figures: Figures
  commands: Record<string, number>
  problem?: string
}

const [library = '', row = '', url = ''] = process.argv.slice(2)
const MS = Number(process.env['MS'] ?? 1000)
const KEYS = 100
const value = (name: string) =>
  ({ name, price: 12.5, inStock: true, tags: ['a', 'b', 'c'], description: 'x'.repeat(900) })

const admin = new Redis(url)
let runs = 0
let fresh = 0

const open = (arrangement: Arrangement, hasTags = false): Promise<Peer> => {
  const start = PEERS[library]
  if (start === undefined) throw new Error(`no library ${library}`)
  return start(url, arrangement, hasTags)
}

/** Runs `callers` sequential loops until the time is over, with turns of the event loop for other work. */
async function load (
  callers: number, ms: number, operation: () => Promise<unknown>
): Promise<{ count: number, ms: number }> {
  const started = performance.now()
  let count = 0
  await Promise.all(Array.from({ length: callers }, async () => {
    while (performance.now() - started < ms) {
      for (let i = 0; i < 20; i++) await operation()
      count += 20
      await new Promise(resolve => setImmediate(resolve))
    }
  }))
  return { count, ms: performance.now() - started }
}

async function loads (operation: () => Promise<unknown>): Promise<Figures> {
  const [one, many] = [await load(1, MS / 2, operation), await load(50, MS, operation)]
  return {
    operations: one.count + many.count,
    'us, one caller': 1000 * one.ms / one.count,
    'a second, 50 callers': 1000 * many.count / many.ms
  }
}

async function hits (arrangement: Arrangement): Promise<() => Promise<Round['figures']>> {
  const peer = await open(arrangement)
  const names = Array.from({ length: KEYS }, (_, i) => `hit:${i}`)
  const ask = (name: string) => peer.getOrSet(name, async () => { runs++; return value(name) })
  for (const name of names) await ask(name)
  let next = 0
  const operation = () => ask(names[next++ % KEYS] ?? '')
  if (!isDeepStrictEqual(await operation(), value('hit:0'))) throw new Error('another value than was made')
  await load(50, 500, operation)
  return async () => {
    runs = 0
    if (arrangement === 'redis') return await loads(operation)
    const { count, ms } = await load(1, MS, operation)
    return { operations: count, 'us, one caller': 1000 * ms / count }
  }
}

async function misses (): Promise<() => Promise<Figures>> {
  const peer = await open('tiers')
  const operation = () => {
    const name = `miss:${process.pid}:${fresh++}`
    return peer.getOrSet(name, async () => { runs++; return value(name) })
  }
  await load(50, 500, operation)
  return async () => {
    runs = 0
    const figures = await loads(operation)
    return { ...figures, 'runs an operation': runs / (figures['operations'] ?? 1) }
  }
}

/** Makes 1,000 concurrent calls, alternating between one and several instances. */
async function stampede (instances: number): Promise<() => Promise<Figures>> {
  const peers = await Promise.all(Array.from({ length: instances }, () => open('tiers')))
  const ask = (i: number, name: string) => peers[i % instances]?.getOrSet(name, async () => {
    runs++
    await sleep(20)
    return value(name)
  })
  const once = async () => {
    const name = `stampede:${process.pid}:${fresh++}`
    runs = 0
    const started = performance.now()
    await Promise.all(Array.from({ length: 1000 }, (_, i) => ask(i, name)))
    return performance.now() - started
  }
  for (let i = 0; i < 3; i++) await once()
  return async () => {
    const ms = await once()
    return { operations: 1, runs, ms }
  }
}

async function tags (count: number): Promise<() => Promise<Figures>> {
  const peer = await open('tiers', true)
  let first = 0
  return async () => {
    const [tag, last] = [`tag-${fresh++}`, nameOf(first + count - 1)]
    // One-time work, such as loading scripts, is not measured.
    await peer.put('warm', 1, 'warm')
    await peer.invalidate('warm')
    await admin.flushdb()
    const before = await memory()
    await peer.put(nameOf(first), { entry: nameOf(first) }, tag)
    await fillByFormat(admin, first, first + count, peer.idOf)
    const bytes = await memory() - before
    const isThere = async () => {
      runs = 0
      await peer.getOrSet(last, async () => ++runs)
      return runs === 0
    }
    if (!await isThere()) throw new Error('what was filled in is not found')
    await admin.config('RESETSTAT')
    const started = performance.now()
    await peer.invalidate(tag)
    const ms = performance.now() - started
    invalidation = await commandsSoFar()
    if (await isThere()) throw new Error('not invalidated')
    // The library's own memory is not cleared.
    first += count
    return { operations: 1, ms, 'bytes an entry': bytes / count, MB: bytes / 1e6 }
  }
}

/** The commands of the invalidation alone, if the row measures that. */
let invalidation: Record<string, number> | undefined

async function memory (): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await admin.info('memory'))?.[1])
}

/** Counts commands, except PING and those that the benchmark sends itself. */
async function commandsSoFar (): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (const [, name = '', calls] of (await admin.info('commandstats')).matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)) {
    if (!['info', 'config|resetstat', 'ping'].includes(name)) counts[name] = Number(calls)
  }
  return counts
}

const rows: Record<string, () => Promise<() => Promise<Figures>>> = {
  l1: () => hits(library === 'async-cache-dedupe' ? 'process' : 'tiers'),
  l2: () => hits('redis'),
  miss: misses,
  'stampede-1': () => stampede(1),
  'stampede-4': () => stampede(4),
  tags: () => tags(Number(process.env['COUNT'] ?? 10))
}

async function main (): Promise<void> {
  const round = await rows[row]?.()
  if (round === undefined) throw new Error(`no row ${row}`)
  process.once('disconnect', () => process.exit())
  process.on('message', async () => {
    try {
      await admin.config('RESETSTAT')
      const figures = await round()
      const commands = invalidation ?? await commandsSoFar()
      const isWrong = (row === 'l1' || row === 'l2') && runs > 0
      process.send?.(
        {
          figures, commands, ...(isWrong && { problem: `${runs} factory runs where all was to be there` })
        } satisfies Round
      )
    } catch (error) {
      process.send?.({ figures: {}, commands: {}, problem: String(error) } satisfies Round)
    }
  })
  process.send?.({ figures: {}, commands: {} } satisfies Round)
}

await main()
