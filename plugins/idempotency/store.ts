/** An answer as it is kept. */
export interface RecordedResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[]>>
  /** Null: an answer without a body. `'too-large'`: it had one that was not kept. */
  readonly body: Buffer | null | 'too-large'
}

/**
 * What became of a request that wants to run:
 * - `mine`: it may
 * - `theirs`: the same one is under way
 * - `{ fingerprint }`: the key belongs to another request, with this fingerprint
 * - an answer: it was done
 */
export type Claim = 'mine' | 'theirs' | { readonly fingerprint: string } | RecordedResponse

/** Who asks, and for what. */
export interface Claimant {
  /** Of the key and its owner. */
  readonly id: string
  /** Of the request. */
  readonly fingerprint: string
  /** Unlike any other's. */
  readonly token: string
}

/** Keeps claims and answers. All times are milliseconds. */
export interface IdempotencyStore {
  /** Asked again by whom it belongs to, it is `mine` still. */
  claim (claimant: Claimant, lease: number): Promise<Claim>
  /** @returns false where it is not this one's any more, or is answered */
  renew (claimant: Claimant, lease: number): Promise<boolean>
  /**
   * Adds the answer to the claim; where that has expired, and nobody took it, as well. It may be said twice.
   *
   * @returns false where it was not kept, as it is somebody else's now
   */
  complete (claimant: Claimant, answer: RecordedResponse, ttl: number): Promise<boolean>
  /** Lets the next one run, unless it is answered. */
  release (claimant: Claimant): Promise<void>
  /** Lets the next one run, also where it is answered: the response was stored, and could not be sent. */
  retract (claimant: Claimant): Promise<void>
}
