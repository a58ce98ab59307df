const BEAT = 5
const MOST_A_BEAT = 25

/**
 * Measures milliseconds in which this process could have done something. While a busy machine did not let it run, no time passes: a bound
 * on a wait is a promise about what is waited for, not about who else runs tests. What blocks the event loop does not count either.
 */
export function stopwatch (): () => number {
  let passed = 0
  let last = performance.now()
  const beat = () => {
    const now = performance.now()
    passed += Math.min(now - last, MOST_A_BEAT)
    last = now
  }
  setInterval(beat, BEAT).unref()
  return () => {
    beat()
    return passed
  }
}
