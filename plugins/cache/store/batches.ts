import { batchesOf as cut } from '../../shared/data/batches.js'

/** The limits of one batch of keys, tags or values. */
const LIMITS = { items: 200, bytes: 1024 * 1024 }

/** Cuts a list of keys, tags or values into batches for the store. @param bytesOf - the size of an item */
export function batchesOf<T> (list: readonly T[], bytesOf: (item: T) => number): T[][] {
  return cut(list, bytesOf, LIMITS)
}

/** Processes batches one after another. Between two of them the event loop serves other requests. */
export async function inBatches<T, R> (batches: readonly T[][], process: (batch: T[]) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (const [i, batch] of batches.entries()) {
    if (i > 0) await new Promise(resolve => setImmediate(resolve))
    results.push(await process(batch))
  }
  return results
}
