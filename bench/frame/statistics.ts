/** Returns the value below which a part of the finite values is. NaN without values. */
export function quantile (values: readonly number[], part: number): number {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b)
  const at = (sorted.length - 1) * part
  const [below, above] = [sorted[Math.floor(at)] ?? NaN, sorted[Math.ceil(at)] ?? NaN]
  return below + (above - below) * (at - Math.floor(at))
}

export function median (values: readonly number[]): number {
  return quantile(values, 0.5)
}

/**
 * Returns the median of the ratios of rounds that ran beside each other. The machine drifts between rounds by more than
 * variants differ, and the medians of each variant alone would compare different times.
 */
export function medianRatio (values: readonly number[], others: readonly number[]): number {
  return median(values.map((value, i) => value / (others[i] ?? NaN)))
}
