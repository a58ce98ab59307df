import Fastify from 'fastify'
import { lock } from 'fastify-redis-suite'
import type { HeldLock, LockHandle, OnceOutcome, Semaphore } from 'fastify-redis-suite/lock'
import { expectError, expectType } from 'tsd'

const app = Fastify()

app.register(lock)
app.register(lock, { ttl: '30s', wait: 0, redis: false })
// One caller's.
expectError(app.register(lock, { signal: new AbortController().signal }))
expectError(app.register(lock, { nodes: 'redis://a,redis://b' }))

expectType<number>(await app.locks.using('stock', async (signal, held) => {
  expectType<AbortSignal>(signal)
  expectType<HeldLock>(held)
  return held.token
}))
expectType<string>(await app.locks.using(['a', 'b'], { ttl: '1m' }, () => 'done'))
expectError(app.locks.using('stock', { tll: '1m' }, () => {}))
expectError(app.locks.using('stock'))

const handle = await app.locks.acquire('stock', { wait: 0, signal: AbortSignal.timeout(1000) })
expectType<LockHandle>(handle)
expectType<boolean>(await handle.release())
expectError(handle.token = 1)
expectType<boolean>(await app.locks.isLocked('stock'))
expectError(app.locks.isLocked(['a', 'b']))

expectType<OnceOutcome>(await app.locks.once('report', { every: '1h' }, async signal => { expectType<AbortSignal>(signal) }))
expectType<OnceOutcome>(await app.locks.once('report', { every: '1 day', tick: '2024-05-01', ttl: '1m', wait: '5s' }, (_signal, held) => held.token))
expectError(app.locks.once('report', {}, () => {}))
expectError(app.locks.once(['a', 'b'], { every: '1h' }, () => {}))
expectError(app.locks.once('report', { every: '1h' }))

const exports = app.locks.semaphore('exports', { permits: 3, ttl: '1m' })
expectType<Semaphore>(exports)
expectType<number>(await exports.available())
expectType<string>(await exports.using({ weight: 2, wait: '1s' }, signal => String(signal.aborted)))
expectType<LockHandle>(await exports.acquire({ weight: 2 }))
expectError(app.locks.semaphore('exports', {}))
expectError(exports.acquire({ permits: 2 }))
app.get('/report', { config: { concurrency: { max: 4, queue: 10, wait: '5s', key: request => request.ip } } }, async () => '')
expectError(app.get('/report', { config: { concurrency: { queue: 10 } } }, async () => ''))
