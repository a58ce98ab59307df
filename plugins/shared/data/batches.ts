/** How much one operation on a store has at most, so that it takes a few milliseconds. */
export interface BatchLimits {
  items: number
  bytes: number
}

/** Cuts a list into batches that are operations of their own, each with its own deadline. @param bytesOf - the size of an item */
export function batchesOf<T> (list: readonly T[], bytesOf: (item: T) => number, limits: BatchLimits): T[][] {
  const batches: T[][] = []
  let bytes = Infinity
  for (const item of list) {
    const last = batches.at(-1)
    bytes += bytesOf(item)
    if (last !== undefined && last.length < limits.items && bytes <= limits.bytes) {
      last.push(item)
    } else {
      batches.push([item])
      bytes = bytesOf(item)
    }
  }
  return batches
}
