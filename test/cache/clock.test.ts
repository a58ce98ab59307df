import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { Clock } from '../../plugins/cache/clock.js'
import { until } from '../helpers/index.js'

const AHEAD = 1000

/** A store whose answers are late by so much each, all of it on the way there. */
function lateBy (...delays: number[]) {
  let asked = 0
  const clock = new Clock(async () => {
    const delay = delays[Math.min(asked++, delays.length - 1)] ?? 0
    if (delay > 0) await sleep(delay)
    return Date.now() + AHEAD
  })
  return { clock, asked: () => asked, wrongBy: () => Math.abs(clock.now() - Date.now() - AHEAD) }
}

t.test('an answer that was late is not believed for longer than a prompt one takes', async t => {
  const { clock, asked, wrongBy } = lateBy(80, 60, 0)
  await clock.set()
  t.ok(wrongBy() > 20, 'at first it is wrong by half of that')
  t.equal(clock.isSet, true)
  await until('it is right', () => wrongBy() <= 5)
  t.equal(asked(), 3)
})

t.test('where all answers are late it is not asked for ever, and the best of them is taken', async t => {
  const { clock, asked, wrongBy } = lateBy(200, 30, 120, 120, 120)
  await clock.set()
  await until('it was asked', () => asked() === 5)
  await sleep(200)
  t.equal(asked(), 5)
  t.ok(wrongBy() < 50)
})

t.test('without an answer it is not set', async t => {
  const clock = new Clock(async () => undefined)
  await clock.set()
  t.equal(clock.isSet, false)
})
