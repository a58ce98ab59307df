/** Tells what a key has used, and in how many milliseconds it is free. */
export type CustomStoreCallback = (error: Error | null, result?: { current: number, ttl: number }) => void

/** A store of the user's own, by the interface of `@fastify/rate-limit`: it counts, and we compare with `max`. */
export interface CustomStore {
  incr (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): unknown
  read? (key: string, callback: CustomStoreCallback, timeWindow: number, max: number): unknown
  child (routeOptions: object): CustomStore
}

export interface CustomStoreConstructor {
  new (options: object): CustomStore
}
