// The events of the live page, as types that the page imports. The `kind` of an event is its name on the wire.

/** A number of requests, and their total duration in milliseconds. */
export interface Timing {
  count: number
  ms: number
}

/** One second of one instance. */
export interface Sample {
  kind: 'sample'
  requests: number
  cache: { hits: number, l1Hits: number, misses: number, stale: number, hitTime: Timing, missTime: Timing }
  rateLimit: { allowed: number, refused: number }
  store: StoreState
  health: { status: Status, checks: Check[] }
  /** The stream of parcels; `null` if its state is unknown at present. */
  parcels: { length: number, lag: number, pending: number, deadLetters: number } | null
  /** Views that wait to be written, of all instances; `null` if unknown at present. */
  views: { backlog: number | null, deadLetters: number | null }
}

/** The state of the store; `null` for figures that are unknown at present. */
export interface StoreState {
  /** Describes the store for people. */
  label: string
  isRedis: boolean
  /** Keys in Redis, or entries of the cache in this process. */
  entries: number | null
  /** Bytes. */
  memory: number | null
  /** Bytes; 0: no limit. */
  maxMemory: number | null
  /** Entries of the L1 cache. */
  l1Entries: number
  /** The duration of a PING in milliseconds. */
  latency: number | null
  /** Commands a second, of all clients. */
  commands: number | null
  circuit: 'closed' | 'late' | 'open' | null
}

export type Status = 'pass' | 'warn' | 'fail'

export interface Check {
  name: string
  status: Status
  /** The observed value, or the reason for the failure. */
  detail: string
}

/** A decision of the rate limiter about the limited route. */
export interface DecisionEvent {
  kind: 'decision'
  /** The limited address. It is removed before sending: a decision is sent to pages of that address only. */
  address?: string
  allowed: boolean
  remaining: number
  /** Whether the instance decided by its own counters, because Redis is unavailable. */
  isLocal: boolean
}

export interface CacheEvent {
  kind: 'cache'
  what: 'hit' | 'miss' | 'stale' | 'invalidate'
  /** A key, or tags. */
  of: string
}

export interface SessionEvent {
  kind: 'session'
  what: 'login' | 'logout' | 'revoke'
  user: string
}

export interface HealthEvent {
  kind: 'health'
  status: Status
  circuit: StoreState['circuit']
}

/**
 * A fault of the Redis that the demo has started:
 *
 * - `hang`: SIGSTOP; connections stay open, and there are no replies
 * - `kill`: SIGKILL; it restarts empty
 * - `slow`: each reply takes {@link SLOW_MS} more
 * - `full`: `maxmemory` is reached, and writes are refused
 * - `read-only`: it is a replica without a master
 */
export type Fault = 'hang' | 'kill' | 'slow' | 'full' | 'read-only'

export const FAULTS: readonly Fault[] = ['hang', 'kill', 'slow', 'full', 'read-only']
/** How much longer each reply of a slow Redis takes, in milliseconds. */
export const SLOW_MS = 500

/** The effect of a plugin on the last request of a probe, which is sent four times a second. */
export interface Behavior {
  /** The plugin, such as `rate-limit`. */
  plugin: string
  /** `pass`: as without a fault; `warn`: by the plugin's fallback; `fail`: refused. */
  state: Status
  /** The effect in words, such as `this instance decides`. */
  text: string
  /** The duration in milliseconds. */
  ms: number
}

/** The fault of the demo's own Redis, and what each plugin does meanwhile. */
export interface Fallbacks {
  kind: 'fallbacks'
  /** `null` for none. */
  fault: Fault | null
  /** When the fault began, or was mended, in milliseconds since the epoch. */
  since: number
  circuit: StoreState['circuit']
  behaviors: Behavior[]
}

/** A step of a worker that edits the document under its lock. */
export interface LockEvent {
  kind: 'lock'
  /** Identifies the edit. */
  edit: string
  worker: 'A' | 'B'
  /** `refused`: the document has a write with a higher token. `failed`: the lock was not acquired. */
  what: 'waiting' | 'acquired' | 'written' | 'refused' | 'failed'
  /** The fencing token. */
  token?: number
}

/** A card was charged. */
export interface PaymentEvent {
  kind: 'payment'
  paymentId: string
  amountCents: number
}

/** A step of an event of the stream of parcels. */
export interface ParcelEvent {
  kind: 'parcel'
  id: string
  /** The key of the event: the parcels of a customer are handled in order. */
  customer: string
  what: 'appended' | 'taken' | 'handled' | 'failed' | 'dead'
  /** The number of the attempt, from 1; 0 before the first. */
  attempt: number
}

/** A batch of write-behind. */
export interface BatchEvent {
  kind: 'batch'
  views: number
  products: number
  ms: number
  /** Whether the database accepted the batch. */
  written: boolean
}

/** The first event of a connection. */
export interface Hello {
  kind: 'hello'
  /** Whether the demo has started its Redis itself, which the page may then break. */
  isBreakable: boolean
  /** The limit of the limited route: `max` requests in `window` milliseconds. */
  limit: { max: number, window: number }
}

/** The number of events of a burst that were not sent one by one. */
export interface OmittedEvents {
  kind: 'more'
  count: number
}

export type LiveData = Sample | DecisionEvent | CacheEvent | SessionEvent | HealthEvent | LockEvent | PaymentEvent |
  ParcelEvent | BatchEvent | Fallbacks | Hello | OmittedEvents

/** An event with its instance, and its time by the instance's clock in milliseconds since the epoch. */
export type LiveEvent<T extends LiveData = LiveData> = T extends LiveData ? T & { instance: string, at: number } : never
