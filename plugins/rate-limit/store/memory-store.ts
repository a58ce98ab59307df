import { LRUCache } from 'lru-cache'
import { steadyTime, systemClock, type Clock } from '../../shared/plugin/clock.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import type { Counter } from '../algorithms/counter.js'
import { GenericCellRate } from '../algorithms/gcra.js'
import { PenaltyState } from '../algorithms/penalty.js'
import { SlidingCounter } from '../algorithms/sliding-counter.js'
import { SlidingLog } from '../algorithms/sliding-log.js'
import type { LimitState, Mode, Verdict } from '../decision.js'
import { countsRefusals, type Algorithm, type Policy } from '../policy.js'
import type { LocalRateLimitStore } from './store.js'

interface Entry {
  /** Each algorithm has its own count: counts of two algorithms cannot be shared. */
  readonly counters: Partial<Record<Algorithm, Counter>>
  penalty: PenaltyState | undefined
}

/**
 * Creates a store in the memory of this process. Beyond `maxKeys` it drops the keys that were used least recently.
 *
 * @param maxKeys - the largest number of keys
 */
export function createMemoryStore (maxKeys: number, clock: Clock = systemClock): LocalRateLimitStore {
  const now = steadyTime(clock)
  const entries = new LRUCache<string, Entry>({ max: maxKeys })
  return {
    apply (id, policy, cost, mode) {
      let entry = entries.get(id)
      if (entry === undefined) {
        entry = { counters: {}, penalty: undefined }
        if (mode !== 'peek') entries.set(id, entry)
      }
      return applyTo(entry, policy, cost, mode, now())
    },
    refund (id, { algorithm, limits }, cost, time) {
      entries.get(id)?.counters[algorithm]?.refund(limits, cost, time, now())
    },
    reset (id) {
      entries.delete(id)
    }
  }
}

/** The same as `APPLY` in `scripts.ts`. */
function applyTo (entry: Entry, policy: Policy, cost: number, mode: Mode, now: Milliseconds): Verdict {
  const { limits, countRejected } = policy
  const counter = entry.counters[policy.algorithm] ??= createCounter(policy)
  let blockedFor = entry.penalty?.blockedFor(now) ?? 0
  const waits: Milliseconds[] = []
  let passes = blockedFor === 0
  limits.forEach((limit, index) => {
    const wait = counter.wait(index, limit, cost, now)
    waits.push(wait)
    if (wait !== 0) passes = false
  })

  if (mode === 'charge' || (mode === 'consume' && (passes || countRejected))) counter.take(limits, cost, now)
  // The cost of a refused request makes the next one wait longer.
  const waitsLonger = !passes && mode === 'consume' && countRejected
  if (mode === 'consume' && !passes && countsRefusals(policy)) {
    entry.penalty ??= new PenaltyState()
    entry.penalty.add(policy, now)
    blockedFor = entry.penalty.blockedFor(now)
  }

  const states = limits.map((limit, index): LimitState => {
    const { used, resetAfter } = counter.used(index, limit, now)
    const retryAfter = waitsLonger ? counter.wait(index, limit, cost, now) : waits[index] ?? 0
    return { used, resetAfter, retryAfter }
  })
  return { states, blockedFor, banned: entry.penalty?.isBanned(now) ?? false, time: now }
}

function createCounter ({ algorithm, limits }: Policy): Counter {
  switch (algorithm) {
    case 'sliding-log': return new SlidingLog(Math.max(...limits.map(({ max }) => max)))
    case 'sliding-counter': return new SlidingCounter()
    case 'gcra': return new GenericCellRate()
  }
}
