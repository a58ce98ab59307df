import type { Test } from 'tap'
import { advanceUntil, advanceWhile, closeApp } from '../app/test-app.js'
import type { StoreName } from '../app/store.js'
import { until } from '../app/until.js'
import { CERTAIN_MS, openLocks, type LockApp, type LockAppOptions } from './lock-app.js'
import { stallableClock } from './stallable-clock.js'

const HOUR = 3_600_000
const code = (what: string) => ({ code: `FST_REDIS_SUITE_LOCK_${what}` })
const turn = async () => await new Promise(resolve => setImmediate(resolve))

/** The contract of every store. */
export function testLocks (t: Test, store: StoreName | 'quorum'): void {
  type Open = (options?: LockAppOptions) => Promise<LockApp>
  const contract = (promise: string, test: (t: Test, open: Open) => Promise<unknown>) =>
    t.test(`${store}: ${promise}`, t => test(t, async options => await openLocks(t, store, options)))
  // The memory store holds the locks of one instance.
  const several = store === 'memory' ? 1 : 3
  const stalled = onOneInstance()

  contract('a section returns what its function returns, and the lock is free after it', async (t, open) => {
    const { locks, clock } = await open()
    t.equal(await locks.isLocked('a'), false)
    const result = await locks.using('a', async (signal, lock) => {
      t.equal(await locks.isLocked('a'), true)
      t.equal(signal.aborted, false)
      t.match(lock, { resources: ['a'], isHeld: true, expiresAt: clock.now() + CERTAIN_MS })
      return 'done'
    })
    t.equal(result, 'done')
    t.equal(await locks.isLocked('a'), false)
  })

  contract('an error that a section throws reaches its caller, and the lock is free after it', async (t, open) => {
    const { locks } = await open()
    await t.rejects(locks.using('a', () => { throw new Error('mine') }), { message: 'mine' })
    await t.rejects(locks.using('a', async () => { throw new Error('mine too') }), { message: 'mine too' })
    t.equal(await locks.isLocked('a'), false)
  })

  contract('a caller that does not wait is refused with 423 while another owner has the lock, which keeps it', async (t, open) => {
    const { locks } = await open()
    await using first = await locks.acquire('a')
    await t.rejects(locks.using('a', { wait: 0 }, () => 'inside'), { ...code('LOCKED'), statusCode: 423, resource: 'a' })
    t.equal(first.isHeld, true)
    t.equal(await first.release(), true)
    t.equal(await locks.using('a', { wait: 0 }, () => 'inside'), 'inside')
  })

  contract('a caller that waits is refused when the wait is over, and not before', async (t, open) => {
    const { locks, clock } = await open()
    await using first = await locks.acquire('a')
    const { value, passed } = await advanceWhile(clock, locks.acquire('a', { wait: '5s' }).catch((error: unknown) => error), { step: 100, atMost: HOUR })
    t.match(value, code('LOCKED'))
    t.ok(passed >= 5000, `refused after ${passed} ms of 5,000`)
    // The memory store replies in no time.
    if (store === 'memory') t.equal(passed, 5000)
    t.equal(first.isHeld, true)
  })

  contract('concurrent callers exclude each other, all get the lock, and each has a higher token', async (t, open) => {
    const { all, clock } = await open({ instances: several })
    const seen = { most: 0, inside: 0, tokens: [] as number[] }
    const callers = Array.from({ length: store === 'quorum' ? 12 : 60 }, async (_, i) => await all[i % several]?.using('a', async (_signal, { token }) => {
      seen.most = Math.max(seen.most, ++seen.inside)
      seen.tokens.push(token)
      await turn()
      seen.inside--
    }))
    await advanceWhile(clock, Promise.all(callers), { step: 25, atMost: HOUR })
    t.same({ most: seen.most, done: seen.tokens.length }, { most: 1, done: callers.length })
    t.same(seen.tokens, [...new Set(seen.tokens)].sort((a, b) => a - b), 'tokens grow')
    t.ok(seen.tokens.every(Number.isSafeInteger))
  })

  contract('a lock lasts three times its ttl while its section runs', async (t, open) => {
    const { locks, clock } = await open()
    const others: unknown[] = []
    await locks.using('a', async (signal, lock) => {
      for (let third = 0; third < 9; third++) {
        await clock.advance(HOUR / 3)
        await until('the lock is extended', () => lock.expiresAt === clock.now() + CERTAIN_MS)
        others.push(await locks.acquire('a', { wait: 0 }).catch(error => error.code))
      }
      t.equal(signal.aborted, false)
    })
    t.same(others, Array(9).fill('FST_REDIS_SUITE_LOCK_LOCKED'))
  })

  contract('a handle expires by its ttl, its signal aborts, and a later release does not affect the next holder', async (t, open) => {
    const { locks, clock } = await open({ retryDelay: '1 minute' })
    const first = await locks.acquire('a')
    const { value: second, passed } = await advanceWhile(clock, locks.acquire('a'), { step: 30_000, atMost: 2 * HOUR })
    t.ok(passed >= CERTAIN_MS, `the next one has it after ${passed} ms`)
    t.equal(first.isHeld, false)
    t.match(first.signal.reason, code('LOST'))
    t.ok(second.token > first.token)
    t.equal(await first.release(), false)
    await t.rejects(first.extend(), code('LOST'))
    t.equal(await locks.isLocked('a'), true)
    t.equal(await second.release(), true)
  })

  contract('a handle can be extended manually or automatically', async (t, open) => {
    const { locks, clock } = await open()
    await using byHand = await locks.acquire('by-hand')
    await using byItself = await locks.acquire('by-itself', { extend: true })
    for (let third = 0; third < 6; third++) {
      await clock.advance(HOUR / 3)
      await byHand.extend()
      t.equal(byHand.expiresAt, clock.now() + CERTAIN_MS)
      await until('the other one is extended', () => byItself.expiresAt === clock.now() + CERTAIN_MS)
    }
    t.same([byHand.isHeld, byItself.isHeld], [true, true])
    t.same([byHand.signal.aborted, byItself.signal.aborted], [false, false])
    t.same([await byHand.release(), await byItself.release()], [true, true])
  })

  contract('several resources are locked all or none, in any order of their names', async (t, open) => {
    const { all: [locks = never(), other = locks], clock } = await open({ instances: several })
    const last = await locks.acquire('c')
    await t.rejects(locks.acquire(['c', 'a', 'b'], { wait: 0 }), { ...code('LOCKED'), resource: 'c' })
    await until('the other locks are released', async () => !await locks.isLocked('a') && !await locks.isLocked('b'))
    await last.release()
    const seen = { most: 0, inside: 0, tokens: [] as unknown[] }
    const sets = [['a', 'b'], ['b', 'a'], ['c', 'b', 'a'], ['b', 'c']].flatMap(names => [names, names, names])
    const sections = sets.map((names, i) => (i % 2 ? locks : other).using(names, async (_signal, lock) => {
      seen.most = Math.max(seen.most, ++seen.inside)
      seen.tokens.push([[...lock.tokens.keys()].sort(), lock.token === lock.tokens.get(names[0] ?? '')])
      await turn()
      seen.inside--
      return names
    }))
    const { value: done } = await advanceWhile(clock, Promise.all(sections), { step: 25, atMost: HOUR })
    t.equal(seen.most, 1, 'each two of them have b in common')
    t.same(done, sets)
    const expected = sets.map(names => [[...names].sort(), true])
    t.same(seen.tokens.map(String).sort(), expected.map(String).sort())
  })

  contract('the first of several locks is extended while the others are waited for', async (t, open) => {
    const { locks, clock } = await open({ retryDelay: '1 minute' })
    const blocker = await locks.acquire('b', { ttl: '1 day' })
    const both = locks.acquire(['a', 'b'])
    await until('the first is locked', () => locks.isLocked('a'))
    for (let third = 0; third < 6; third++) {
      await clock.advance(HOUR / 3)
      // Sent after the extension, and so executed after it.
      t.equal(await locks.isLocked('a'), true)
    }
    await blocker.release()
    const { value: handle } = await advanceWhile(clock, both, { step: 100, atMost: HOUR / 2 })
    t.equal(handle.isHeld, true)
    t.equal(await handle.release(), true)
  })

  contract('if the first of several locks is lost while the others are waited for, all are acquired again', async (t, open) => {
    const { all: [locks = never(), other = locks], clock, lines } = await open({ instances: several, retryDelay: '1 minute', clockOf: (instance, base) => instance === 0 ? stalled.on(base) : base })
    const blocker = await other.acquire('b', { ttl: '1 day', extend: false })
    const both = locks.acquire(['a', 'b'])
    await until('the first is locked, and extended by a timer', () => stalled.clock.delays.has(HOUR / 3))
    stalled.clock.stall()
    await clock.advance(2 * HOUR)
    await until('the first has expired', async () => !await other.isLocked('a'))
    stalled.clock.resume()
    await advanceUntil(clock, 'the first is locked again', () => locks.isLocked('a'), { step: 100, atMost: HOUR / 2 })
    await blocker.release()
    const { value: handle } = await advanceWhile(clock, both, { step: 100, atMost: HOUR / 2 })
    t.equal(handle.isHeld, true)
    t.same([...handle.tokens.keys()], ['a', 'b'])
    t.same(lines.filter(({ msg }) => msg === 'lock: lost'), [], 'no section ran under the lost lock')
    t.equal(await handle.release(), true)
    t.same([await locks.isLocked('a'), await locks.isLocked('b')], [false, false])
  })
  contract('a holder that stalls for longer than its ttl notices the loss at once, and the next token is higher', async (t, open) => {
    const { all: [locks = never(), other = locks], clock } = await open({ instances: several, clockOf: (instance, base) => instance === 0 ? stalled.on(base) : base })
    const row = { fence: 0, value: '' }
    const write = (token: number, value: string) => token >= row.fence && Object.assign(row, { fence: token, value }) === row
    let first: { isHeld: boolean, isWritten: boolean } | undefined
    let goOn: (() => void) | undefined
    const section = locks.using('a', async (_signal, lock) => {
      await new Promise<void>(resolve => { goOn = resolve })
      // No timer has fired yet.
      first = { isHeld: lock.isHeld, isWritten: write(lock.token, 'first') }
    })
    await until('it is inside', () => goOn !== undefined)
    stalled.clock.stall()
    await clock.advance(2 * HOUR)
    t.equal(await other.using('a', { wait: store === 'quorum' ? '1 day' : 0 }, (_signal, lock) => write(lock.token, 'next')), true)
    const lost = t.rejects(section, code('LOST'))
    goOn?.()
    await lost
    t.same(first, { isHeld: false, isWritten: false })
    t.equal(row.value, 'next')
    stalled.clock.resume()
  })

  contract('the caller\'s signal ends the wait, with its reason, and the caller does not get the lock later', async (t, open) => {
    const { locks, clock } = await open()
    const first = await locks.acquire('a')
    const stop = new AbortController()
    const waiting = locks.acquire('a', { signal: stop.signal })
    // Sent after the first attempt, and so executed after it.
    await locks.isLocked('a')
    stop.abort(new Error('gone'))
    await t.rejects(waiting, { message: 'gone' })
    await first.release()
    const { value } = await advanceWhile(clock, locks.using('a', () => 'next'))
    t.equal(value, 'next')
  })

  contract('on close waits reject, sections end, and locks are released', async (t, open) => {
    const { apps: [app = never()], all: [locks = never(), other = locks], clock } = await open({ instances: several })
    const order: string[] = []
    let begin = () => {}
    const begun = new Promise<void>(resolve => { begin = resolve })
    const section = locks.using('a', async signal => {
      begin()
      await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve()))
      order.push((signal.reason as { code: string }).code)
      for (let i = 0; i < 10; i++) await turn()
      order.push('section')
      return 'finished'
    })
    await begun
    const handle = await locks.acquire('handle')
    const waiting = t.rejects(locks.acquire('a'), { ...code('CLOSED'), statusCode: 503 })
    await closeApp(app, clock)
    order.push('closed')
    await waiting
    t.equal(await section, 'finished')
    t.same(order, ['FST_REDIS_SUITE_LOCK_CLOSED', 'section', 'closed'])
    t.equal(handle.isHeld, false)
    await t.rejects(locks.acquire('a'), code('CLOSED'))
    t.same([await other.isLocked('a'), await other.isLocked('handle')], [false, false])
  })

  contract('a section that ignores the signal delays the close no longer than its lock lasts', async (t, open) => {
    const { app, locks, clock } = await open()
    let goOn = () => {}
    let begin = () => {}
    const begun = new Promise<void>(resolve => { begin = resolve })
    const section = locks.using('a', async () => {
      begin()
      await new Promise<void>(resolve => { goOn = resolve })
    })
    const rejected = t.rejects(section, { code: /CLOSED|LOST/ })
    await begun
    let isClosed = false
    const closing = app.close().then(() => { isClosed = true })
    await clock.advance('59 minutes')
    t.equal(isClosed, false, 'the lock stands')
    await clock.advance(HOUR - 59 * 60_000)
    const { passed } = await advanceWhile(clock, closing, { step: 1 })
    t.ok(passed < HOUR, `closed ${passed} ms after the lock had ended`)
    goOn()
    await rejected
  })

  /** Advances the clock to the beginning of a period of an hour. */
  const toFullHour = async ({ clock }: LockApp) => await clock.advance(HOUR - clock.now() % HOUR)

  contract('a job runs once in each period, also if one instance ends it before the other one begins', async (t, open) => {
    const test = await open({ instances: several })
    const { all: [locks = never(), other = locks], clock } = test
    await toFullHour(test)
    let runs = 0
    const outcomes: string[] = []
    for (let period = 0; period < 3; period++) {
      for (const each of [locks, other, locks]) {
        outcomes.push(await each.once('report', { every: '1 hour' }, () => { runs++ }))
        await clock.advance(50)
      }
      await clock.advance(HOUR - 150)
    }
    t.same(outcomes, ['ran', 'done', 'done', 'ran', 'done', 'done', 'ran', 'done', 'done'])
    t.equal(runs, 3)
    t.equal(await locks.isLocked('report'), false)
  })

  contract('concurrent callers run a job once, and the others return at once or wait for its end', async (t, open) => {
    const { all: [locks = never(), other = locks], clock } = await open({ instances: several })
    const every = { every: '1 day', tick: 'today' } as const
    let end = () => {}
    let runs = 0
    const first = locks.once('report', every, async () => {
      runs++
      await new Promise<void>(resolve => { end = resolve })
    })
    await until('the job runs', () => runs === 1)
    t.equal(await other.once('report', every, () => { runs++ }), 'running')
    const waiting = other.once('report', { ...every, wait: '5 minutes' }, () => { runs++ })
    end()
    t.equal(await first, 'ran')
    t.equal((await advanceWhile(clock, waiting, { step: 25, atMost: HOUR })).value, 'done')
    t.equal(runs, 1)
  })

  contract('a job that fails, or whose lock was lost, is not done: the next call runs it', async (t, open) => {
    const { all: [locks = never(), other = locks], clock } = await open({ instances: several, clockOf: (instance, base) => instance === 0 ? stalled.on(base) : base })
    const every = { every: '30 days', tick: 7 } as const
    await t.rejects(locks.once('report', every, () => { throw new Error('mine') }), { message: 'mine' })
    const lost = t.rejects(locks.once('report', every, async () => {
      stalled.clock.stall()
      await clock.advance(2 * HOUR)
    }), code('LOST'))
    await lost
    stalled.clock.resume()
    t.equal(await other.once('report', every, (signal, { token }) => { t.ok(token > 0 && !signal.aborted) }), 'ran')
    t.equal(await locks.once('report', every, () => { throw new Error('again') }), 'done')
  })

  contract('jobs and ticks of any names are independent, and a record outlives its period by another one', async (t, open) => {
    const { locks, clock } = await open()
    const runs: string[] = []
    const run = async (name: string, tick: string | number) => await locks.once(name, { every: '1 hour', tick }, () => { runs.push(`${name} ${tick}`) })
    for (const [name, tick] of [['a', 1], ['a', 2], ['b', 1], ['a:1', 'b'], ['a', '1:b'], ['a{1}', 'é *'], ['a', '__proto__']] as const) t.equal(await run(name, tick), 'ran')
    t.equal(new Set(runs).size, 7)
    await clock.advance(2 * HOUR - 60_000)
    t.equal(await run('a', 1), 'done')
    await clock.advance(60_000)
    t.equal(await run('a', 1), 'ran')
  })

  contract('resources with names of any kind are independent', async (t, open) => {
    const { locks } = await open()
    const odd = ['a{a}', 'a{b}', 'a*', 'a \n', 'aé', '__proto__', 'x'.repeat(5000)]
    await using handle = await locks.acquire(odd)
    t.equal(handle.tokens.size, odd.length)
    t.equal(await locks.using('a', { wait: 0 }, () => 'inside'), 'inside')
  })
}

function never (): never {
  throw new Error('no such instance')
}

/** The clock of the instance that stalls. */
function onOneInstance () {
  let clock: ReturnType<typeof stallableClock> | undefined
  return {
    on: (base: Parameters<typeof stallableClock>[0]) => (clock = stallableClock(base)),
    get clock () { return clock ?? never() }
  }
}
