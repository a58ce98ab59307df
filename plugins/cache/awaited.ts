/** Applies a function to what another one returned: at once, or, where that is a promise, when it is fulfilled. */
export function after<T, R> (given: T | PromiseLike<T>, then: (value: T) => R): R | Promise<R> {
  return isPromise(given) ? Promise.resolve(given).then(then) : then(given)
}

export function isPromise<T> (given: T | PromiseLike<T>): given is PromiseLike<T> {
  return typeof given === 'object' && given !== null && 'then' in given && typeof given.then === 'function'
}
