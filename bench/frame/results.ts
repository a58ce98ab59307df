// The results of benchmarks, and what of them is a failure.

/** One round of a variant. A benchmark may have further figures. */
export interface Round {
  /** Operations, or requests, a second. */
  throughput?: number
  /** CPU time of the measured process for an operation, in microseconds. */
  cpu?: number
  /** Memory of Redis for an item. */
  bytes?: number
  /** Operations that failed. */
  failed: number
  /** How they failed: statuses of responses, or messages. */
  reasons?: readonly string[]
}

/** A variant with its rounds; those of two variants of one result with the same index ran beside each other. */
export interface Variant<R extends Round = Round> { variant: string, rounds: R[] }

export interface Result { title: string, variants: Variant[] }

/** The variants of this suite, by their names: only their failures fail a benchmark. */
export function isOurs (variant: string): boolean {
  return variant.startsWith('this suite')
}

export function failedOf ({ rounds }: Variant): number {
  return rounds.reduce((sum, { failed }) => sum + failed, 0)
}

/** Returns a line for each variant that failed operations, or has no rounds. */
export function failuresOf ({ title, variants }: Result): string[] {
  return variants.flatMap(one => {
    const failed = failedOf(one)
    const reasons = new Set(one.rounds.flatMap(({ reasons = [] }) => reasons))
    if (failed > 0) return [`${title}: ${one.variant}: ${failed} failed (${[...reasons].join(', ') || 'no reason'})`]
    return one.rounds.length === 0 ? [`${title}: ${one.variant}: nothing was measured`] : []
  })
}

/** Returns 1 if a variant of this suite failed. Failures of a peer are its own. */
export function exitCodeOf (results: readonly Result[]): 0 | 1 {
  const ours = results.map(({ title, variants }) => ({ title, variants: variants.filter(one => isOurs(one.variant)) }))
  return ours.flatMap(failuresOf).length > 0 ? 1 : 0
}
