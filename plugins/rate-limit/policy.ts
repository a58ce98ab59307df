/** One limit: at most `max` units of cost in a `window` of milliseconds. */
export interface Limit {
  /** Names it in the `RateLimit` fields. */
  readonly name: string
  readonly max: number
  readonly window: number
  /** Units that may come at once; `gcra` alone heeds it. */
  readonly burst: number
}

export const ALGORITHMS = ['sliding-log', 'sliding-counter', 'gcra'] as const
export type Algorithm = typeof ALGORITHMS[number]

/** Refuses a key for longer with each refusal: `base`, twice `base`, … milliseconds, `cap` at most. */
export interface Penalty {
  readonly base: number
  readonly cap: number
  /** For how many milliseconds after it a further refusal still doubles it. */
  readonly memory: number
}

/** What a key may do, complete and checked. */
export interface Policy {
  readonly limits: readonly Limit[]
  readonly algorithm: Algorithm
  /** Whether a refused request takes its cost all the same. */
  readonly countRejected: boolean
  readonly penalty: Penalty | undefined
  /** After how many refusals the key is banned; -1: never. */
  readonly ban: number
  /** For how many milliseconds. */
  readonly banDuration: number
}

export function longestWindow (limits: readonly Limit[]): number {
  return Math.max(...limits.map(limit => limit.window))
}

/** Whether refusals are counted, which takes a state of its own. */
export function countsRefusals ({ ban, penalty }: Policy): boolean {
  return ban >= 0 || penalty !== undefined
}
