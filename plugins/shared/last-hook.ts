/**
 * A list of hooks that ends with one of them, whatever others append to it later: what is stored is what is sent, and who
 * may see it was asked, also where a plugin that compresses, or asks, is registered afterwards.
 */
export function endingWith<T> (present: T | T[] | undefined, last: T): T[] {
  const list = present === undefined ? [] : [present].flat() as T[]
  const hooks = [...list, last]
  return Object.defineProperty(hooks, 'push', {
    value (...more: T[]) {
      hooks.splice(hooks.length - 1, 0, ...more)
      return hooks.length
    }
  })
}
