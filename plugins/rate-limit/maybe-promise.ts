export type MaybePromise<T> = T | Promise<T>

/** Goes on with a value at once, or when its promise resolves: what is known needs no turn of the event loop. */
export function whenReady<T, R> (value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value)
}

/** Of whatever make: to take one for a value would mean that all are allowed. */
export function isPromise<T> (value: MaybePromise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
