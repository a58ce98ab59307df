import { MAX_TIMER_MS, type Duration } from './duration.js'
import { invalidOptionError, type PluginName } from './errors.js'
import { readOptions } from './option-reader.js'

/** How long to wait between two attempts: `min` first, twice as long each time, `max` at most. */
export interface BackoffOptions {
  /** @default 100 ms */
  min?: Duration | undefined
  /** @default '30s', or `min` where that is longer */
  max?: Duration | undefined
}

/** The option `backoff`, in milliseconds. */
export function readBackoff (plugin: PluginName, given: BackoffOptions = {}): { min: number, max: number } {
  if (typeof given !== 'object' || given === null) throw invalidOptionError(plugin, 'backoff', given, 'an object with min and max')
  const read = readOptions(plugin, given)
  read.onlyKnown(['min', 'max'])
  const min = read.duration('min', 100, { min: 1, max: MAX_TIMER_MS })
  return { min, max: read.duration('max', Math.max(min, 30_000), { min, max: MAX_TIMER_MS }) }
}

/** Milliseconds to wait: doubles from min to max; between half of it and all of it, so that not all come at once. @param times - from 1 */
export function backoffMs (times: number, { min, max }: { min: number, max: number }): number {
  return Math.min(max, min * 2 ** (times - 1)) * (0.5 + Math.random() / 2)
}
