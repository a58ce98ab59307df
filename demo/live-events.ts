// What the live page is told, shared with the page itself: types alone. An event's `kind` is its name on the wire.

/** How many, and how many milliseconds they took together. */
export interface Timing {
  count: number
  ms: number
}

/** What one second of one instance was like. */
export interface Sample {
  kind: 'sample'
  requests: number
  cache: { hits: number, l1Hits: number, misses: number, stale: number, hitTime: Timing, missTime: Timing }
  rateLimit: { allowed: number, refused: number }
  store: StoreState
  health: { status: Status, checks: Check[] }
}

/** Null where it is not known now. */
export interface StoreState {
  /** Where the stores are, as people read it. */
  label: string
  isRedis: boolean
  /** Keys in Redis, or entries of the cache in this process. */
  entries: number | null
  /** Bytes. */
  memory: number | null
  /** Bytes; 0: no limit. */
  maxMemory: number | null
  /** Entries of the cache in the memory of this process, before Redis. */
  l1Entries: number
  /** Milliseconds that a PING took. */
  latency: number | null
  /** Commands a second, of all clients. */
  commands: number | null
  circuit: 'closed' | 'late' | 'open' | null
}

export type Status = 'pass' | 'warn' | 'fail'

export interface Check {
  name: string
  status: Status
  /** What it observed, or why it is not well. */
  detail: string
}

/** Of the limited route, for the address it came from. */
export interface DecisionTold {
  kind: 'decision'
  /** The address that was limited; left out on the wire, as only its own pages are told. */
  who?: string
  allowed: boolean
  remaining: number
}

export interface CacheTold {
  kind: 'cache'
  what: 'hit' | 'miss' | 'stale' | 'invalidate'
  /** A key, or tags. */
  of: string
}

export interface SessionTold {
  kind: 'session'
  what: 'login' | 'logout' | 'revoke'
  user: string
}

export interface HealthTold {
  kind: 'health'
  status: Status
  circuit: StoreState['circuit']
}

/** The first event of a connection. */
export interface Hello {
  kind: 'hello'
  /** The limit of the limited route: so many in so many milliseconds. */
  limit: { max: number, window: number }
}

/** More than could be told one by one. */
export interface MoreTold {
  kind: 'more'
  count: number
}

export type Told = Sample | DecisionTold | CacheTold | SessionTold | HealthTold | Hello | MoreTold

/** By which instance, and when by its clock, in milliseconds since the epoch. */
export type LiveEvent<T extends Told = Told> = T extends Told ? T & { instance: string, at: number } : never
