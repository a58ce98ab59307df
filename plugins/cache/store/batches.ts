import { batchesOf as cut } from '../../shared/data/batches.js'

/** The largest batch of keys, tags or values. */
const LIMITS = { items: 200, bytes: 1024 * 1024 }

/** Cuts a list of keys, tags or values into batches for the store. @param bytesOf - the size of an item */
export function batchesOf<T> (list: readonly T[], bytesOf: (item: T) => number): T[][] {
  return cut(list, bytesOf, LIMITS)
}

/** Works on one batch after another, with a turn of the event loop in between, in which other requests are served. */
export async function inBatches<T, R> (batches: readonly T[][], work: (batch: T[]) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (const [i, batch] of batches.entries()) {
    if (i > 0) await new Promise(resolve => setImmediate(resolve))
    results.push(await work(batch))
  }
  return results
}
