/** How many keys, tags or values one operation on the store has at most, and how many bytes of them, so that it takes a few milliseconds. */
const MOST = 200
const MOST_BYTES = 1024 * 1024

/** Cuts a list into batches that are operations of their own, each with its own deadline. @param bytesOf - the size of an item */
export function batchesOf<T> (list: readonly T[], bytesOf: (item: T) => number): T[][] {
  const batches: T[][] = []
  let bytes = Infinity
  for (const item of list) {
    const last = batches.at(-1)
    bytes += bytesOf(item)
    if (last !== undefined && last.length < MOST && bytes <= MOST_BYTES) {
      last.push(item)
    } else {
      batches.push([item])
      bytes = bytesOf(item)
    }
  }
  return batches
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
