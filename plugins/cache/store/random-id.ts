import { randomFillSync } from 'node:crypto'

// Asked for in one go: a call costs more than its bytes.
const pool = Buffer.alloc(6 * 1024)
let used = pool.length

/** So many random bytes as base64url. */
export function randomText (bytes: number): string {
  if (used + bytes > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += bytes
  return pool.toString('base64url', used - bytes, used)
}
