export type MaybePromise<T> = T | Promise<T>

/** Calls `next` with a value at once, or when its promise resolves: a known value takes no turn of the event loop. */
export function whenReady<T, R> (value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value)
}

/** Whether a value is a promise of any library. A promise taken for a value could allow every request. */
export function isPromise<T> (value: MaybePromise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}

/**
 * Calls a sync or async function, and returns the result of `onFailure` if it throws or rejects. Never throws or
 * rejects itself, unless `onFailure` does.
 */
export function recover<T> (work: () => MaybePromise<T>, onFailure: (error: unknown) => T): MaybePromise<T> {
  try {
    const result = work()
    return isPromise(result) ? Promise.resolve(result).catch(onFailure) : result
  } catch (error) {
    return onFailure(error)
  }
}

/** Marks a promise's rejection as handled, so that it does not end the process if no code awaits the promise. */
export function handled<P extends PromiseLike<unknown>> (promise: P): P {
  Promise.resolve(promise).catch(() => {})
  return promise
}
