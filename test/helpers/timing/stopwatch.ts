const BEAT = 5
const MOST_A_BEAT = 25

/**
 * Measures milliseconds in which this process could run. While a busy machine does not run it, no time passes: a bound on a wait is a promise about
 * the plugin, and not about other processes. Time in which the event loop is blocked does not count either.
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
