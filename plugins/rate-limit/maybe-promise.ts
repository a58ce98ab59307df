export type MaybePromise<T> = T | Promise<T>

/** Goes on with a value at once, or when its promise resolves: what is known needs no turn of the event loop. */
export function whenReady<T, R> (value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return value instanceof Promise ? value.then(next) : next(value)
}
