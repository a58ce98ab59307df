import type { Limit } from './policy.js'

/**
 * - `consume`: takes the cost from all limits, or from none where one of them refuses it
 * - `peek`: takes nothing, and returns what `consume` would return
 * - `charge`: takes the cost whatever the limits are
 */
export type Mode = 'consume' | 'peek' | 'charge'

/** The state of one limit after a decision. */
export interface LimitState {
  /** Units in the window that ends now. */
  readonly used: number
  /** Milliseconds until the oldest unit leaves the window; the whole window where it is empty. */
  readonly resetAfter: number
  /** Milliseconds until a request of this cost passes this limit; 0 where it does, `Infinity` where it never will. */
  readonly retryAfter: number
}

/** A store's result for one request. */
export interface Verdict {
  /** In the order of the policy's limits. */
  readonly states: readonly LimitState[]
  /** Milliseconds for which the key is refused beyond its limits, by a penalty or a ban. */
  readonly blockedFor: number
  readonly banned: boolean
  /** When the cost was taken, by the store's clock. It identifies the units in a refund. */
  readonly time: number
}

/** The decision on one request. */
export interface Decision {
  readonly allowed: boolean
  /** Whether the key is refused for longer than its limits say, as it was refused too often. */
  readonly banned: boolean
  /** The limit that is reported: the one that refuses for longest, else the one with the least remaining. */
  readonly limit: Limit
  readonly remaining: number
  /** Milliseconds until the oldest unit leaves the window. */
  readonly resetAfter: number
  /** Milliseconds until a request of this cost passes; 0 where it does, `Infinity` where it never will. */
  readonly retryAfter: number
  /** Milliseconds for which the key is refused beyond its limits, by a penalty or a ban. */
  readonly blockedFor: number
  /** When the cost was taken, by the store's clock. */
  readonly time: number
  /** Where the cost was taken: in this process alone, in the shared store, or nowhere, as the store failed. */
  readonly takenFrom: 'process' | 'store' | 'nowhere'
}

/** Turns a verdict into a decision: a request passes if nothing refuses it, and the tightest limit is reported. */
export function decide (limits: readonly Limit[], verdict: Verdict, takenFrom: Decision['takenFrom']): Decision {
  const { states, blockedFor, banned, time } = verdict
  let tightest = 0
  for (let i = 1; i < limits.length; i++) {
    if (isTighter(limits, states, i, tightest)) tightest = i
  }
  const limit = limits[tightest]
  const state = states[tightest]
  if (limit === undefined || state === undefined) throw new RangeError('a limit and its state are needed')
  const retryAfter = Math.max(blockedFor, state.retryAfter)
  return {
    allowed: retryAfter === 0,
    banned,
    limit,
    remaining: blockedFor > 0 ? 0 : Math.max(0, limit.max - state.used),
    resetAfter: Math.max(blockedFor, state.resetAfter),
    retryAfter,
    blockedFor,
    time,
    takenFrom
  }
}

function isTighter (limits: readonly Limit[], states: readonly LimitState[], i: number, j: number): boolean {
  const [a, b] = [states[i], states[j]]
  const [limitA, limitB] = [limits[i], limits[j]]
  if (!a || !b || !limitA || !limitB) return false
  if (a.retryAfter !== b.retryAfter) return a.retryAfter > b.retryAfter
  const difference = (limitA.max - a.used) - (limitB.max - b.used)
  return difference === 0 ? a.resetAfter > b.resetAfter : difference < 0
}

/** Returns the tighter one of two decisions on one request. */
export function tighterDecision (a: Decision, b: Decision): Decision {
  if (a.retryAfter !== b.retryAfter) return a.retryAfter > b.retryAfter ? a : b
  return b.remaining < a.remaining ? b : a
}

/** Returns the name of the event that reports a decision. */
export function outcomeOf ({ allowed, banned }: Decision): 'allowed' | 'refused' | 'banned' {
  if (allowed) return 'allowed'
  return banned ? 'banned' : 'refused'
}
