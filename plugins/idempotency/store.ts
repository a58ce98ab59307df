import type { Milliseconds } from '../shared/plugin/units.js'

/** A response as the store holds it. */
export interface RecordedResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[]>>
  /** `null`: the response had no body. `'too-large'`: the body was larger than `maxBodySize` and is not stored. */
  readonly body: Buffer | null | 'too-large'
}

/**
 * The state of a key after an attempt to acquire it:
 * - `acquired`: this request may run
 * - `inProgress`: the same request is running
 * - `mismatch`: the key belongs to a request with another fingerprint
 * - `stored`: the request has run, with this response
 */
export type KeyState =
  | { readonly kind: 'acquired' }
  | { readonly kind: 'inProgress' }
  | { readonly kind: 'mismatch', readonly fingerprint: string }
  | { readonly kind: 'stored', readonly response: RecordedResponse }

export const ACQUIRED: KeyState = { kind: 'acquired' }
export const IN_PROGRESS: KeyState = { kind: 'inProgress' }

/** A request with a key. */
export interface KeyedRequest {
  /** The digest of the key and its scope. */
  readonly id: string
  /** The digest of what the request asks for. */
  readonly fingerprint: string
  /** A random id: a repetition of the request has another one. */
  readonly token: string
}

/** Holds keys, with a lease while their request runs, and responses. Each method is idempotent. */
export interface IdempotencyStore {
  /** Acquires the key for `lease` if it is free, or if this request has it already. */
  acquire (request: KeyedRequest, lease: Milliseconds): Promise<KeyState>
  /** @returns false if the key is not this request's any more, or has a response */
  renew (request: KeyedRequest, lease: Milliseconds): Promise<boolean>
  /**
   * Stores the response for `ttl`, also if the lease has expired and no other request has acquired the key.
   *
   * @returns false if another request has the key
   */
  complete (request: KeyedRequest, response: RecordedResponse, ttl: Milliseconds): Promise<boolean>
  /** Frees the key, unless it has a response. */
  release (request: KeyedRequest): Promise<void>
  /** Frees the key and removes its response, which could not be sent. */
  retract (request: KeyedRequest): Promise<void>
}
