import { MAX_TIMER_MS, type Duration } from './duration.js'
import { duration, option } from './option-kinds.js'
import { readOption, resolveOptions, type Option, type OptionTable } from './option-table.js'
import type { Milliseconds } from './units.js'

/** How long to wait between attempts: `min` first, doubled each time, `max` at most. */
export interface BackoffOptions {
  /** @default 100 ms */
  min?: Duration | undefined
  /** @default '30s', or `min` if that is longer */
  max?: Duration | undefined
}

export interface Backoff {
  min: Milliseconds
  max: Milliseconds
}

const BACKOFF_OPTIONS = {
  min: duration(100, { min: 1, max: MAX_TIMER_MS }),
  max: duration('30s', { max: MAX_TIMER_MS })
} satisfies OptionTable<BackoffOptions>

/** The option `backoff`. */
export function backoff (): Option<BackoffOptions, Backoff> {
  return option({
    type: '`{ min, max }`',
    allowed: 'an object with min and max',
    fallback: {},
    fallbackText: "`{ min: 100, max: '30s' }`",
    parse (given, plugin) {
      if (typeof given !== 'object' || given === null) return undefined
      const { min, max } = resolveOptions(plugin, BACKOFF_OPTIONS, given)
      return { min, max: readOption(plugin, 'max', duration(Math.max(min, max), { min, max: MAX_TIMER_MS }), given) }
    }
  })
}

/**
 * Returns how long to wait: doubled from `min` to `max`, between half and all of it at random.
 *
 * @param times - from 1
 */
export function backoffMs (times: number, { min, max }: Backoff): Milliseconds {
  return Math.min(max, min * 2 ** (times - 1)) * (0.5 + Math.random() / 2)
}
