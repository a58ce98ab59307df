/**
 * Waits for `promise`, but no longer than `ms`; what comes of it later is ignored.
 *
 * When the timer fires, the event loop may itself have been late, with the answer lying in a socket that was not
 * read yet: one turn through the poll phase (`setImmediate`) lets it win. So a busy process does not mistake its
 * own delay for the server's.
 *
 * @param onTimeout - makes the error of the rejection
 */
export function withDeadline<T> (promise: Promise<T>, ms: number, onTimeout: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => setImmediate(() => reject(onTimeout())), ms)
    promise.then(
      value => { clearTimeout(timer); resolve(value) },
      error => { clearTimeout(timer); reject(error) }
    )
  })
}
