import type { Entry } from './store.js'

/** `fresh`: may be used; `stale`: may be used while it is made anew; `expired`: not to be used. */
export type Freshness = 'fresh' | 'stale' | 'expired'

export function freshnessOf ({ storedAt, ttl, stale }: Pick<Entry, 'storedAt' | 'ttl' | 'stale'>, now: number): Freshness {
  const age = now - storedAt
  if (age < ttl) return 'fresh'
  return age < ttl + stale ? 'stale' : 'expired'
}

/** Whole seconds since it was stored, for the field `Age` (RFC 9111 §5.1). */
export function ageOf ({ storedAt }: Pick<Entry, 'storedAt'>, now: number): number {
  return Math.max(0, Math.floor((now - storedAt) / 1000))
}
