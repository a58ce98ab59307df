import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { Bell } from '../../../plugins/lock/bells.js'
import { systemClock } from '../../../plugins/shared/clock.js'
import type { LockPluginOptions } from '../../../plugins/lock/index.js'
import { openLocks } from './lock-app.js'
import { until } from '../app/until.js'
import { stopwatch } from '../timing/stopwatch.js'

let names = 0
const code = (what: string) => ({ code: `FST_REDIS_SUITE_LOCK_${what}` })

/** What every store promises. */
export function testLocks (t: Test, store: string, options: (t: Test) => LockPluginOptions): void {
  const contract = (promise: string, test: (t: Test, resource: string, open: (more?: LockPluginOptions) => ReturnType<typeof openLocks>) => Promise<unknown>) =>
    t.test(`${store}: ${promise}`, t => test(t, `r${++names}`, async more => await openLocks(t, { timeout: 1000, ...options(t), ...more })))

  contract('a section returns what its function returns, and the lock is free after it', async (t, resource, open) => {
    const { locks } = await open()
    t.equal(await locks.isLocked(resource), false)
    const result = await locks.using(resource, async (signal, lock) => {
      t.equal(await locks.isLocked(resource), true)
      t.equal(signal.aborted, false)
      t.match(lock, { resources: [resource], isHeld: true })
      t.ok(lock.expiresAt > Date.now() + 8000 && lock.expiresAt <= Date.now() + 10_000)
      return 'done'
    })
    t.equal(result, 'done')
    t.equal(await locks.isLocked(resource), false)
  })

  contract('what a section throws is what its caller gets, and the lock is free after it', async (t, resource, open) => {
    const { locks } = await open()
    await t.rejects(locks.using(resource, () => { throw new Error('mine') }), { message: 'mine' })
    await t.rejects(locks.using(resource, async () => { throw new Error('mine too') }), { message: 'mine too' })
    t.equal(await locks.isLocked(resource), false)
  })

  contract('who does not wait is refused with 423 while somebody has it, and the other one keeps it', async (t, resource, open) => {
    const { locks } = await open()
    await using first = await locks.acquire(resource)
    await t.rejects(locks.using(resource, { wait: 0 }, () => 'inside'), { ...code('LOCKED'), statusCode: 423, resource })
    t.equal(first.isHeld, true)
    t.equal(await first.release(), true)
    t.equal(await locks.using(resource, { wait: 0 }, () => 'inside'), 'inside')
  })

  contract('who waits is refused when the wait is over, and not before', async (t, resource, open) => {
    const { locks } = await open()
    await using first = await locks.acquire(resource)
    const begun = performance.now()
    await t.rejects(locks.acquire(resource, { wait: 300 }), code('LOCKED'))
    const waited = performance.now() - begun
    t.ok(waited >= 299 && waited < 1500, `${waited}`)
    t.equal(first.isHeld, true)
  })

  contract('of 60 at once in one process never two are inside, and all get in', async (t, resource, open) => {
    const { locks } = await open()
    let inside = 0
    let most = 0
    let done = 0
    await Promise.all(Array.from({ length: 60 }, () => locks.using(resource, { wait: '25s' }, async () => {
      most = Math.max(most, ++inside)
      await sleep(1)
      inside--
      done++
    })))
    t.same({ most, done }, { most: 1, done: 60 })
  })

  contract('tokens only grow', async (t, resource, open) => {
    const { locks } = await open()
    const tokens: number[] = []
    for (let i = 0; i < 20; i++) await locks.using(resource, async (_signal, { token }) => { tokens.push(token) })
    t.ok(tokens.every((token, i) => Number.isSafeInteger(token) && (i === 0 || token > tokens[i - 1]!)), tokens.join())
  })

  contract('it stands three times its ttl while its section runs', async (t, resource, open) => {
    const { locks } = await open()
    const others: unknown[] = []
    await locks.using(resource, { ttl: 300 }, async signal => {
      const end = performance.now() + 900
      while (performance.now() < end) {
        others.push(await locks.acquire(resource, { wait: 0 }).catch(error => error.code))
        await sleep(50)
      }
      t.equal(signal.aborted, false)
    })
    t.ok(others.length > 10 && others.every(other => other === 'FST_REDIS_SUITE_LOCK_LOCKED'))
  })

  contract('a handle ends by its ttl, its signal says so, and releasing it then leaves the next holder alone', async (t, resource, open) => {
    const { locks } = await open()
    const first = await locks.acquire(resource, { ttl: 300 })
    const second = await locks.acquire(resource, { wait: 2000 })
    t.equal(first.isHeld, false)
    t.match(first.signal.reason, code('LOST'))
    t.ok(second.token > first.token)
    t.equal(await first.release(), false)
    await t.rejects(first.extend(), code('LOST'))
    t.equal(await locks.isLocked(resource), true)
    t.equal(await second.release(), true)
  })

  contract('a handle can be extended by hand, or by itself', async (t, resource, open) => {
    const { locks } = await open()
    await using byHand = await locks.acquire(resource, { ttl: 300 })
    await using byItself = await locks.acquire(`${resource}-2`, { ttl: 200, extend: true })
    for (let i = 0; i < 4; i++) {
      await sleep(150)
      await byHand.extend()
    }
    t.same([byHand.isHeld, byItself.isHeld], [true, true])
    t.same([byHand.signal.aborted, byItself.signal.aborted], [false, false])
  })

  contract('several resources are locked all or none, in whatever order they are named', async (t, resource, open) => {
    const { locks } = await open()
    const [a, b, c] = [`${resource}-a`, `${resource}-b`, `${resource}-c`]
    const last = await locks.acquire(c)
    await t.rejects(locks.acquire([c, a, b], { wait: 0 }), { ...code('LOCKED'), resource: c })
    await until('what was taken is given back', async () => !await locks.isLocked(a) && !await locks.isLocked(b))
    await last.release()
    let inside = 0
    let most = 0
    await Promise.all([[a, b], [b, a], [c, b, a], [b, c]].flatMap(names => [names, names, names]).map(names =>
      locks.using(names, { wait: '25s' }, async (_signal, lock) => {
        most = Math.max(most, ++inside)
        t.same([...lock.tokens.keys()].sort(), [...names].sort())
        t.equal(lock.token, lock.tokens.get(names[0]!))
        await sleep(2)
        inside--
      })))
    t.equal(most, 1, 'each two of them have b in common')
  })

  contract('what is locked first of several stands while the others are waited for', async (t, resource, open) => {
    const { locks } = await open()
    const [a, b] = [`${resource}-a`, `${resource}-b`]
    const blocker = await locks.acquire(b)
    const both = locks.acquire([a, b], { ttl: 300, wait: 5000 })
    await until('the first is locked', () => locks.isLocked(a))
    await sleep(600)
    t.equal(await locks.isLocked(a), true)
    await blocker.release()
    const handle = await both
    t.equal(handle.isHeld, true)
    t.equal(await handle.release(), true)
  })

  contract('waiting ends by the caller\'s signal, with its reason, and he is not let in later', async (t, resource, open) => {
    const { locks } = await open()
    const first = await locks.acquire(resource)
    const stop = new AbortController()
    const waiting = locks.acquire(resource, { signal: stop.signal })
    await sleep(50)
    stop.abort(new Error('gone'))
    await t.rejects(waiting, { message: 'gone' })
    await first.release()
    t.equal(await locks.using(resource, { wait: 1000 }, () => 'next'), 'next')
  })

  contract('on close those who wait are rejected, sections end, and locks are given back', async (t, resource, open) => {
    const one = await open()
    const two = store === 'memory' ? one : await open()
    let heard: unknown
    const begun = new Bell(systemClock)
    const section = one.locks.using(resource, async signal => {
      begun.ring()
      await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve()))
      heard = signal.reason
      await sleep(50)
      return 'finished'
    })
    await begun.wait(5000)
    const handle = await one.locks.acquire(`${resource}-handle`)
    const waiting = one.locks.acquire(resource)
    const rejected = t.rejects(waiting, { ...code('CLOSED'), statusCode: 503 })
    await one.app.close()
    await rejected
    t.match(heard, code('CLOSED'))
    t.equal(await section, 'finished')
    t.equal(handle.isHeld, false)
    await t.rejects(one.locks.acquire(resource), code('CLOSED'))
    t.equal(await two.locks.isLocked(resource), false)
    t.equal(await two.locks.isLocked(`${resource}-handle`), false)
  })

  contract('a section that does not heed the signal keeps the app from closing no longer than its lock stands', async (t, resource, open) => {
    const { app, locks } = await open()
    const begun = new Bell(systemClock)
    const section = locks.using(resource, { ttl: 300 }, async () => {
      begun.ring()
      await sleep(1000)
    })
    const rejected = t.rejects(section, { code: /CLOSED|LOST/ })
    await begun.wait(5000)
    const begin = performance.now()
    const sinceClosing = stopwatch()
    await app.close()
    t.ok(performance.now() - begin >= 150 && sinceClosing() < 700, `${sinceClosing()}`)
    await rejected
  })

  contract('names of any kind are locked apart', async (t, resource, open) => {
    const { locks } = await open()
    const odd = [`${resource}{a}`, `${resource}{b}`, `${resource}*`, `${resource} \n`, `${resource}é`, '__proto__', 'x'.repeat(5000)]
    await using handle = await locks.acquire(odd)
    t.equal(handle.tokens.size, odd.length)
    await locks.using(resource, { wait: 0 }, () => {})
  })
}
