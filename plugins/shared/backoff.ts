/** Milliseconds to wait: doubles from min to max; between half of it and all of it, so that not all come at once. @param times - from 1 */
export function backoffMs (times: number, { min, max }: { min: number, max: number }): number {
  return Math.min(max, min * 2 ** (times - 1)) * (0.5 + Math.random() / 2)
}
