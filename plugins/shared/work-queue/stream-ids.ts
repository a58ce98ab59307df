import { steadyTime, systemClock, type Clock } from '../plugin/clock.js'

/** Orders ids of stream entries: below 0 where `a` comes first. */
export function compareIds (a: string, b: string): number {
  const [aTime = 0, aCount = 0] = a.split('-').map(Number)
  const [bTime = 0, bCount = 0] = b.split('-').map(Number)
  return aTime - bTime || aCount - bCount
}

const MAX_COUNT = 2n ** 64n - 1n

/**
 * Returns the id that comes next after `id`: what begins there excludes `id`, also before Redis 6.2, which does not
 * know `(id`.
 */
export function idAfter (id: string): string {
  const [time = '0', count = '0'] = id.split('-')
  return BigInt(count) < MAX_COUNT ? `${time}-${BigInt(count) + 1n}` : `${BigInt(time) + 1n}-0`
}

/** When an entry was added, by the clock of the server: milliseconds since the epoch. */
export function timeOfId (id: string): number {
  return Number.parseInt(id, 10)
}

/** Makes ids as a server does, by this process's clock, as if that was never set: each is after the one before. */
export function createIds (clock: Clock = systemClock): () => string {
  const now = steadyTime(clock)
  let last = { time: 0, count: 0 }
  return () => {
    const time = now()
    last = { time, count: time === last.time ? last.count + 1 : 0 }
    return `${time}-${last.count}`
  }
}
