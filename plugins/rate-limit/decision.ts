/** One limit: at most `max` units of cost in any `window` milliseconds. */
export interface Limit {
  readonly max: number
  readonly window: number
}

/** Where one limit stands after a decision. */
export interface LimitState {
  /** Units in the window that ends now. */
  readonly used: number
  /** Milliseconds until the oldest unit leaves the window; the whole window where it is empty. */
  readonly resetAfter: number
  /** Milliseconds until a request of this cost passes; 0 where it passes, `Infinity` where it never will. */
  readonly retryAfter: number
}

/** What was decided on one request. */
export interface Decision {
  readonly allowed: boolean
  /** The limit that is reported: the one that holds back longest, else the one with the least remaining. */
  readonly limit: Limit
  readonly remaining: number
  /** Milliseconds, as in {@link LimitState}. */
  readonly resetAfter: number
  /** Milliseconds, as in {@link LimitState}. */
  readonly retryAfter: number
}

/** Sums several limits up: a request passes if all of them let it, and the tightest one is reported. */
export function summarize (limits: readonly Limit[], states: readonly LimitState[]): Decision {
  let tightest: Decision | undefined
  for (const [index, limit] of limits.entries()) {
    const state = states[index]
    if (state === undefined) throw new RangeError('a state is missing for a limit')
    const decision: Decision = {
      allowed: state.retryAfter === 0,
      limit,
      remaining: Math.max(0, limit.max - state.used),
      resetAfter: state.resetAfter,
      retryAfter: state.retryAfter
    }
    if (tightest === undefined || isTighter(decision, tightest)) tightest = decision
  }
  if (tightest === undefined) throw new RangeError('at least one limit is needed')
  return tightest
}

function isTighter (a: Decision, b: Decision): boolean {
  if (a.retryAfter !== b.retryAfter) return a.retryAfter > b.retryAfter
  if (a.remaining !== b.remaining) return a.remaining < b.remaining
  return a.resetAfter > b.resetAfter
}
