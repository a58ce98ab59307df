export type MaybePromise<T> = T | Promise<T>

/** Continues with a value at once, or when its promise resolves: a value that is known needs no turn of the event loop. */
export function whenReady<T, R> (value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value)
}

/** Whether it is a promise of any library: taking one for a value could mean, for example, that every request is allowed. */
export function isPromise<T> (value: MaybePromise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
