/** Receives the units that a key has used, and the milliseconds until its window ends. */
export type CustomStoreCallback = (error: Error | null, result?: { current: number, ttl: number }) => void

/** A store of the user's own with the interface of `@fastify/rate-limit`. It counts; the plugin compares with `max`. */
export interface CustomStore {
  incr (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): unknown
  read? (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): unknown
  child (routeOptions: object): CustomStore
}

export interface CustomStoreConstructor {
  new (options: object): CustomStore
}
