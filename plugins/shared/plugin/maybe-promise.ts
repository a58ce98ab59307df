export type MaybePromise<T> = T | Promise<T>

/** Continues with a value at once, or when its promise resolves: a value that is known needs no turn of the event loop. */
export function whenReady<T, R> (value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value)
}

/** Whether it is a promise of any library: taking one for a value could mean, for example, that every request is allowed. */
export function isPromise<T> (value: MaybePromise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}

/**
 * Calls a function that may throw, or return a promise that rejects, and gives what `onFailure` makes of the error in place of a result. It
 * never throws and never rejects, unless `onFailure` does.
 */
export function recover<T> (work: () => MaybePromise<T>, onFailure: (error: unknown) => T): MaybePromise<T> {
  try {
    const result = work()
    return isPromise(result) ? Promise.resolve(result).catch(onFailure) : result
  } catch (error) {
    return onFailure(error)
  }
}

/** Marks a promise's rejection as handled: where nothing awaits the promise, it does not end the process. */
export function handled<P extends PromiseLike<unknown>> (promise: P): P {
  Promise.resolve(promise).catch(() => {})
  return promise
}
