import { parse } from '@lukeed/ms'

/** A number of milliseconds, or a string with a unit: `'30s'`, `'5 minutes'`, `'1h'`. */
export type Duration = number | string

/** The largest delay that a timer of Node.js and a TTL of Redis both carry without overflow (24.8 days). */
export const MAX_TIMER_MS = 2 ** 31 - 1

/** @returns whole milliseconds, or undefined where the value is not a finite, non-negative duration */
export function parseDuration (value: unknown): number | undefined {
  const ms = typeof value === 'string' ? parseText(value) : value
  if (typeof ms !== 'number' || !Number.isFinite(ms) || ms < 0) return undefined
  return Math.round(ms)
}

function parseText (text: string): number | undefined {
  const trimmed = text.trim()
  return trimmed === '' ? undefined : parse(trimmed)
}
