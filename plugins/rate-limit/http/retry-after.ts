import type { Decision } from '../decision.js'

/**
 * Returns the seconds until a refused request passes; a window where it never will. They are rounded up, as a client
 * that waits for as long as the header says must not come too early.
 */
export function retryAfterSeconds ({ retryAfter, limit }: Decision): number {
  return Math.ceil((Number.isFinite(retryAfter) ? retryAfter : limit.window) / 1000)
}
