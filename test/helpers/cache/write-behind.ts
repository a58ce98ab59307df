import { Redis } from 'ioredis'
import type { Test } from 'tap'
import type { Write, WriteBehindOptions } from '../../../plugins/cache/data/write-behind/options.js'
import { createWriteBehinds, type WriteBehindsOptions } from '../../../plugins/cache/data/write-behind/write-behind.js'
import { guardRedis } from '../../../plugins/shared/redis/guard.js'
import type { RedisPort } from '../../../plugins/shared/redis/port.js'
import { createTestClock, type TestClock } from '../../../plugins/testing/index.js'
import { collectLog } from '../app/log-lines.js'
import { ageKeys } from '../app/store.js'
import { advanceUntil, advanceWhile } from '../app/test-app.js'

/** So long that a lease is lost only if a test advances the clock by minutes. */
export const LEASE_MS = 600_000

/** A source that can be made to refuse writes. */
export function createSource<T = number> () {
  const batches: Array<ReadonlyArray<Write<T>>> = []
  const fences: number[] = []
  const source = {
    batches,
    fences,
    refuse: undefined as undefined | ((batch: ReadonlyArray<Write<T>>) => Error | undefined),
    get written () { return batches.flat() },
    valuesOf: (key: string) => batches.flat().filter(each => each.key === key).map(({ value }) => value),
    async write (batch: ReadonlyArray<Write<T>>, { fence }: { fence: number }) {
      await new Promise(resolve => setImmediate(resolve))
      const error = source.refuse?.(batch)
      if (error) throw error
      batches.push(batch)
      fences.push(fence)
    }
  }
  return source
}

export type Source = ReturnType<typeof createSource<number>>

/** The parts that a test may set; the clock is the test's. */
type Base = Pick<WriteBehindsOptions, 'prefix'> & Partial<Omit<WriteBehindsOptions, 'client'>> & {
  port: RedisPort | undefined
  clock: TestClock
  /** The timeout of commands in milliseconds. @default so long that it does not pass */
  deadline?: number | undefined
}

/** Opens a write-behind `orders`, which closes with the test. */
export function openBehind (t: Test, base: Base, given: Partial<WriteBehindOptions<number>> = {}) {
  const { clock, port: client, deadline = LEASE_MS } = base
  const { logger, lines } = collectLog()
  const guarded: WriteBehindsOptions['run'] = client === undefined ? operation => operation() : guardRedis(client, logger, deadline, 'cache', clock).run
  let inFlight = 0
  const run: WriteBehindsOptions['run'] = async operation => {
    inFlight++
    try {
      return await guarded(operation)
    } finally {
      inFlight--
    }
  }
  /** Resolves when no command is in flight for some turns of the event loop. */
  const quiet = async () => {
    for (let turns = 0; turns < 20; turns = inFlight === 0 ? turns + 1 : 0) await new Promise(resolve => setImmediate(resolve))
  }
  const source = createSource<number>()
  const behinds = createWriteBehinds({ run, log: logger, lease: LEASE_MS, ...base, client })
  const close = async () => { await advanceWhile(clock, behinds.close(), { step: 100 }) }
  t.teardown(close)
  const behind = behinds.writeBehind<number>('orders', { write: source.write, flushEvery: '1h', backoff: { min: 5, max: 20 }, ...given })
  /** Advances the clock until the promise settles. */
  const soon = async <T>(promise: Promise<T>, step = 10): Promise<T> => (await advanceWhile(clock, promise, { step, atMost: 10 * LEASE_MS })).value
  return {
    source,
    behind,
    behinds,
    clock,
    close,
    soon,
    flush: () => soon(behind.flush({ timeout: '1h' })),
    /** By seconds of the clock. */
    owns: (count: number) => advanceUntil(clock, `it owns ${count} partitions`, async () => (await behind.stats()).owned === count, { step: 1000, atMost: 10 * LEASE_MS }),
    /** Resolves when it owns all partitions and waits for writes or for `flushEvery`. */
    async isIdle (partitions = 4) {
      await advanceUntil(clock, 'it owns all partitions', async () => (await behind.stats()).owned === partitions)
      await soon(behind.flush())
      // A poll in flight, or one that a flush has triggered with a timer, would find the writes that the test adds next.
      await quiet()
      await clock.advance(5)
      await quiet()
    },
    warnings: () => lines.filter(({ level }) => Number(level) >= 40).map(({ msg }) => String(msg)),
    /** Messages of the level `info` and above. */
    messages: () => lines.filter(({ level }) => Number(level) >= 30).map(({ msg }) => String(msg))
  }
}

/** Creates a client for another instance, on a server whose keys age with the clock of the first one. */
export function connectInstance (t: Test, url: string): Redis {
  const client = new Redis(url, { retryStrategy: () => 20 })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  return client
}

/** @param server - `answers` is false while its keys cannot age */
export function clockOf (t: Test, server: { readonly url: string, readonly answers?: boolean }, prefix: string): TestClock {
  const clock = createTestClock()
  ageKeys(t, clock, connectInstance(t, server.url), prefix, () => server.answers !== false)
  return clock
}
