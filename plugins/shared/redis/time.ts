/** Milliseconds since the epoch, of what `TIME` says. */
export function timeOf ([seconds, microseconds]: ReadonlyArray<number | string>): number {
  return Number(seconds) * 1000 + Number(microseconds) / 1000
}
