import { LRUCache } from 'lru-cache'
import { steadyTime, systemClock, type Clock } from '../../shared/plugin/clock.js'
import type { Counter } from '../algorithms/counter.js'
import { GenericCellRate } from '../algorithms/gcra.js'
import { SlidingCounter } from '../algorithms/sliding-counter.js'
import { SlidingLog } from '../algorithms/sliding-log.js'
import type { Mode, Verdict } from '../decision.js'
import { countsRefusals, type Algorithm, type Policy } from '../policy.js'
import { PenaltyState } from '../algorithms/penalty.js'
import type { MemoryStore } from './store.js'

interface Entry {
  /** Of each algorithm that the key was asked for by: what two of them keep cannot be one count. */
  readonly counters: Partial<Record<Algorithm, Counter>>
  refusals: PenaltyState | undefined
  /** When it was used last. */
  now: number
}

/**
 * Keeps the counts in this process, bounded in keys: the ones that were used least recently go first.
 *
 * @param maxKeys - how many keys are kept
 */
export function createMemoryStore (maxKeys: number, clock: Clock = systemClock): MemoryStore {
  const now = steadyTime(clock)
  const entries = new LRUCache<string, Entry>({ max: maxKeys })
  return {
    apply (key, policy, cost, mode) {
      let entry = entries.get(key)
      if (entry === undefined) {
        entry = { counters: {}, refusals: undefined, now: 0 }
        if (mode !== 'peek') entries.set(key, entry)
      }
      entry.now = now()
      return applyTo(entry, policy, cost, mode)
    },
    refund (key, { algorithm, limits }, cost, time) {
      const entry = entries.get(key)
      if (entry === undefined) return
      entry.now = now()
      entry.counters[algorithm]?.refund(limits, cost, time, entry.now)
    },
    reset (key) {
      entries.delete(key)
    }
  }
}

function applyTo (entry: Entry, policy: Policy, cost: number, mode: Mode): Verdict {
  const { now } = entry
  const { limits } = policy
  const counter = entry.counters[policy.algorithm] ??= createCounter(policy)
  let blockedFor = entry.refusals?.blockedFor(now) ?? 0
  let waits = limits.map((limit, index) => counter.wait(index, limit, cost, now))
  const passes = blockedFor === 0 && waits.every(wait => wait === 0)

  if (mode === 'charge' || (mode === 'consume' && (passes || policy.countRejected))) counter.take(limits, cost, now)
  // What was taken of a refused request makes the next one wait longer.
  if (!passes && mode === 'consume' && policy.countRejected) waits = limits.map((limit, index) => counter.wait(index, limit, cost, now))
  if (mode === 'consume' && !passes && countsRefusals(policy)) {
    entry.refusals ??= new PenaltyState()
    entry.refusals.add(policy, now)
    blockedFor = entry.refusals.blockedFor(now)
  }
  return {
    states: limits.map((limit, index) => {
      const { used, resetAfter } = counter.used(index, limit, now)
      return { used, resetAfter, retryAfter: waits[index] ?? 0 }
    }),
    blockedFor,
    banned: entry.refusals?.isBanned(now) ?? false,
    time: now
  }
}

function createCounter ({ algorithm, limits }: Policy): Counter {
  switch (algorithm) {
    case 'sliding-log': return new SlidingLog(Math.max(...limits.map(({ max }) => max)))
    case 'sliding-counter': return new SlidingCounter()
    case 'gcra': return new GenericCellRate()
  }
}
