const SCALE = Number(process.env['SCALE'] ?? 1)

/** A count of a stress test. `SCALE=10` multiplies the counts, and the duration; `.ci/run` has time for a tenth. */
export function scaled (count: number): number {
  return Math.max(1, Math.round(count * SCALE))
}
