const UNKNOWN = '–'

/** Formats a number with at most three significant digits. */
export function number (value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN
  const digits = value >= 100 || Number.isInteger(value) ? 0 : value >= 10 ? 1 : 2
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

export function percent (value: number | null): string {
  return value === null ? UNKNOWN : `${Math.round(value)} %`
}

export function bytes (value: number | null): string {
  if (value === null) return UNKNOWN
  if (value < 1024) return `${value} B`
  const kib = value / 1024
  return kib < 1024 ? `${number(kib)} KiB` : `${number(kib / 1024)} MiB`
}

/** Formats a timestamp as the time of day. */
export function clock (at: number): string {
  return new Date(at).toLocaleTimeString('en-GB')
}

/** Formats milliseconds as seconds. */
export function seconds (ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

/** Formats a fencing token by its last digits: tokens are as long as a time in microseconds. */
export function tokenText (token: number | undefined): string {
  return token === undefined ? UNKNOWN : `…\u2060${String(token).slice(-6)}`
}

export function euros (cents: number): string {
  return `€ ${(cents / 100).toFixed(2)}`
}
