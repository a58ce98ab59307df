// Measures one library and one row of `bench/data-cache.ts` in its own process:
// `tsx bench/data-cache-worker.ts <library> <row> <redis url> <milliseconds a round>`.
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { Redis } from 'ioredis'
import { PEERS, type Arrangement, type Peer } from './data-cache-peers.js'
import { fillByFormat, nameOf } from './data-cache-fill.js'
import { measureCalls } from './frame/calls.js'
import { redisWork, workEach } from './frame/redis-work.js'
import type { Round } from './frame/results.js'

/** A round of calls. */
export interface CallRound extends Round {
  /** The commands that Redis executed for a call. */
  commands: Record<string, number>
  /** The factory's runs for a call. */
  runs?: number
}

/** A round of each load of a row. The first reply has none. */
export interface WorkerReply {
  loads: string[]
  rounds: Record<string, CallRound>
  problem?: string
}

/** The loads of a row, by name. */
type Loads = Record<string, () => Promise<CallRound>>

const [library = '', row = '', url = '', roundMs = '1000'] = process.argv.slice(2)
const MS = Number(roundMs)
const KEYS = 100
const ONE = 'one caller'
const MANY = '50 callers'
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
async function load (callers: number, ms: number, operation: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  let count = 0
  await Promise.all(Array.from({ length: callers }, async () => {
    while (performance.now() - started < ms) {
      for (let i = 0; i < 20; i++) await operation()
      count += 20
      await new Promise(resolve => setImmediate(resolve))
    }
  }))
  return count
}

/** Measures calls, with the commands of Redis and the runs of the factory. @param work - resolves with their number */
async function measure (work: () => Promise<number>): Promise<CallRound> {
  runs = 0
  let count = 0
  const before = await redisWork(admin)
  const round = await measureCalls(async () => (count = await work()))
  const { commands } = workEach(before, await redisWork(admin), count)
  return { ...round, commands, runs: runs / count }
}

async function hits (arrangement: Arrangement): Promise<Loads> {
  const peer = await open(arrangement)
  const names = Array.from({ length: KEYS }, (_, i) => `hit:${i}`)
  const ask = (name: string) => peer.getOrSet(name, async () => { runs++; return value(name) })
  for (const name of names) await ask(name)
  let next = 0
  const operation = () => ask(names[next++ % KEYS] ?? '')
  if (!isDeepStrictEqual(await operation(), value('hit:0'))) throw new Error('another value than was made')
  await load(50, 500, operation)
  const measureHits = async (callers: number, ms: number) => {
    const round = await measure(() => load(callers, ms, operation))
    return { ...round, failed: runs, reasons: ['a factory ran, though all was cached'] }
  }
  if (arrangement !== 'redis') return { '': () => measureHits(1, MS) }
  return { [ONE]: () => measureHits(1, MS / 2), [MANY]: () => measureHits(50, MS) }
}

async function misses (): Promise<Loads> {
  const peer = await open('tiers')
  const operation = () => {
    const name = `miss:${process.pid}:${fresh++}`
    return peer.getOrSet(name, async () => { runs++; return value(name) })
  }
  await load(50, 500, operation)
  return {
    [ONE]: () => measure(() => load(1, MS / 2, operation)), [MANY]: () => measure(() => load(50, MS, operation))
  }
}

/** Makes 1,000 concurrent calls, alternating between one and several instances. */
async function stampede (instances: number): Promise<Loads> {
  const peers = await Promise.all(Array.from({ length: instances }, () => open('tiers')))
  const ask = (i: number, name: string) => peers[i % instances]?.getOrSet(name, async () => {
    runs++
    await sleep(20)
    return value(name)
  })
  const once = async () => {
    const name = `stampede:${process.pid}:${fresh++}`
    await Promise.all(Array.from({ length: 1000 }, (_, i) => ask(i, name)))
    return 1
  }
  for (let i = 0; i < 3; i++) await once()
  return { '': () => measure(once) }
}

/** Invalidates a tag of a number of entries: the library writes the first of them, and `fillByFormat` the others. */
async function tags (count: number): Promise<Loads> {
  const peer = await open('tiers', true)
  let first = 0
  const isThere = async (name: string) => {
    const before = runs
    await peer.getOrSet(name, async () => ++runs)
    return runs === before
  }
  return {
    '': async () => {
      const [tag, last] = [`tag-${fresh++}`, nameOf(first + count - 1)]
      // One-time work, such as loading scripts, is not measured.
      await peer.put('warm', 1, 'warm')
      await peer.invalidate('warm')
      await admin.flushdb()
      const before = await memory()
      await peer.put(nameOf(first), { entry: nameOf(first) }, tag)
      await fillByFormat(admin, first, first + count, peer.idOf)
      const bytes = (await memory() - before) / count
      if (!await isThere(last)) throw new Error('what was filled in is not found')
      const round = await measure(async () => {
        await peer.invalidate(tag)
        return 1
      })
      if (await isThere(last)) throw new Error('not invalidated')
      // The library's own memory is not cleared.
      first += count
      return { ...round, bytes }
    }
  }
}

async function memory (): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await admin.info('memory'))?.[1])
}

async function openRow (): Promise<Loads> {
  const [kind = '', count] = row.split('-')
  switch (kind) {
    case 'l1': return await hits(library === 'async-cache-dedupe' ? 'process' : 'tiers')
    case 'l2': return await hits('redis')
    case 'miss': return await misses()
    case 'stampede': return await stampede(Number(count))
    case 'tags': return await tags(Number(count))
    default: throw new Error(`no row ${row}`)
  }
}

const loads = await openRow()
const send = (rounds: Record<string, CallRound>, problem?: string) => {
  process.send?.(
    { loads: Object.keys(loads), rounds, ...(problem !== undefined && { problem }) } satisfies WorkerReply
  )
}
process.once('disconnect', () => process.exit())
process.on('message', async () => {
  const rounds: Record<string, CallRound> = {}
  try {
    for (const [name, measureLoad] of Object.entries(loads)) rounds[name] = await measureLoad()
    send(rounds)
  } catch (error) {
    send(rounds, String(error))
  }
})
send({})
