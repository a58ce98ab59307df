import type { Milliseconds } from '../shared/plugin/units.js'

/** One limit: at most `max` units of cost in any one `window`. */
export interface Limit {
  /** Its name in the `RateLimit` fields. */
  readonly name: string
  readonly max: number
  readonly window: Milliseconds
  /** How many units may come at once. Only `gcra` uses it. */
  readonly burst: number
}

export const ALGORITHMS = ['sliding-log', 'sliding-counter', 'gcra'] as const
export type Algorithm = typeof ALGORITHMS[number]

/** Refuses a key for longer with each refusal: `base`, twice `base`, … `cap` at most. */
export interface Penalty {
  readonly base: Milliseconds
  readonly cap: Milliseconds
  /** How long after the penalty a further refusal still doubles it. */
  readonly memory: Milliseconds
}

/** The limits of a key, with all options resolved. */
export interface Policy {
  readonly limits: readonly Limit[]
  readonly algorithm: Algorithm
  /** Whether a refused request takes its cost too. */
  readonly countRejected: boolean
  readonly penalty: Penalty | undefined
  /** After how many refusals the key is banned; -1: never. */
  readonly ban: number
  readonly banDuration: Milliseconds
}

export function longestWindow (limits: readonly Limit[]): Milliseconds {
  return Math.max(...limits.map(limit => limit.window))
}

const MAX_CORRECTION_MS = 10 * 60 * 1000

/** Returns how long a correction of a cost is sent again that the store did not take: it then leaves the window. */
export function correctionTime ({ limits }: Policy): Milliseconds {
  return Math.min(longestWindow(limits), MAX_CORRECTION_MS)
}

/** Whether the policy needs a count of refusals, which is a state beside the limits. */
export function countsRefusals ({ ban, penalty }: Policy): boolean {
  return ban >= 0 || penalty !== undefined
}
