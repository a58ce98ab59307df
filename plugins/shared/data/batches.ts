/** The maximum size of an operation on a store, so that it takes a few milliseconds. */
interface BatchLimits {
  items: number
  bytes: number
}

/** Splits a list into batches, each an operation with its own deadline. @param bytesOf - returns the size of an item */
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
