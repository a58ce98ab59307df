import t, { type Test } from 'tap'
import { build, type JobOptions } from '../../examples/guides/scheduled-jobs.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { openLocks } from '../helpers/lock/lock-app.js'
import { startRedis, until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'

/** Two instances of the example that poll often, on a clock that stands at the beginning of a period. */
async function startFleet (t: Test, report: JobOptions['report']) {
  const server = await startRedis()
  process.env['REDIS_URL'] = server.url
  const clock = createTestClock({ now: Date.UTC(2024, 4, 1, 12) })
  const apps = await Promise.all([0, 1].map(async () => await build({ report, clock, pollMs: 25 })))
  t.teardown(async () => { await Promise.all(apps.map(app => app.close())) })
  await Promise.all(apps.map(app => app.ready()))
  const outcomes = async () => await Promise.all(apps.map(async app => (await app.inject('/jobs')).json<Record<'ran' | 'done' | 'running' | 'failed', number>>()))
  /** Resolves when both instances have asked twice more: what was due has been run by then. */
  async function polls (kind: 'done' | 'running'): Promise<void> {
    const before = await outcomes()
    await until('both instances have asked again', async () => (await outcomes()).every((each, i) => each[kind] >= (before[i]?.[kind] ?? 0) + 2))
  }
  return { apps, server, clock, outcomes, polls }
}

t.test('two instances that poll all the time run the job once in each period', async t => {
  let runs = 0
  const { clock, outcomes, polls } = await startFleet(t, () => { runs++ })
  for (let period = 1; period <= 4; period++) {
    await until('the job has run in this period', () => runs === period)
    await polls('done')
    t.equal(runs, period)
    await clock.advance('10 minutes')
  }
  await until('the last period', () => runs === 5)
  await polls('done')
  t.equal((await outcomes()).reduce((sum, { ran }) => sum + ran, 0), 5)
  t.equal(runs, 5)
})

t.test('a job that is longer than its period never runs twice at a time', async t => {
  let [running, most, runs] = [0, 0, 0]
  let end = () => {}
  const { clock, polls } = await startFleet(t, async () => {
    most = Math.max(most, ++running)
    runs++
    await new Promise<void>(resolve => { end = resolve })
    running--
  })
  await until('the job runs', () => running === 1)
  // A third of the ttl at a time, so that the lock is extended.
  for (let passed = 0; passed < 660; passed += 10) await clock.advance('10s')
  await polls('running')
  t.equal(runs, 1)
  end()
  await until('the next period\'s job runs', () => runs === 2)
  t.equal(most, 1)
  end()
  await until('the job is done', () => running === 0)
})

t.test('a job that fails is tried again in the same period', async t => {
  let runs = 0
  const { polls, outcomes } = await startFleet(t, () => {
    if (++runs < 3) throw new Error('the report service is unavailable')
  })
  await until('the third try', () => runs === 3)
  await polls('done')
  t.equal(runs, 3)
  t.equal((await outcomes()).reduce((sum, { failed }) => sum + failed, 0), 2)
})

t.test('a job whose instance died runs on another one when the lock has expired', async t => {
  let runs = 0
  const server = await startRedis()
  // A holder that does not come back: its lock is never extended or released.
  await server.client().set('jobs:lock:held:{report}', 'a dead instance', 'PX', 60_000)
  process.env['REDIS_URL'] = server.url
  const app = await build({ report: () => { runs++ }, pollMs: 5 })
  t.teardown(() => app.close())
  const outcomes = async () => (await app.inject('/jobs')).json()
  await until('the instance has asked', async () => (await outcomes()).running >= 2)
  t.equal(runs, 0)
  await server.client().pexpire('jobs:lock:held:{report}', 1)
  await until('the job has run', () => runs === 1)
})

t.test('what goes wrong otherwise: a lock without a record runs a short job once on each instance', async t => {
  const { all, clock } = await openLocks(t, 'redis', { instances: 2 })
  let runs = 0
  for (const locks of all) {
    await locks.using('report', { wait: 0 }, () => { runs++ })
    await clock.advance(50)
  }
  t.equal(runs, 2)
  for (const locks of all) {
    await locks.once('report', { every: '1 day', tick: 'today' }, () => { runs++ })
    await clock.advance(50)
  }
  t.equal(runs, 3)
})
