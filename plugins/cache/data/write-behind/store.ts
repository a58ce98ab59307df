/** A write that was accepted and is neither written nor dead. */
export interface StoredWrite {
  /** `{milliseconds}-{number}`, greater than that of all writes of its partition that were accepted before. */
  readonly id: string
  readonly key: string
  readonly value: Buffer
  /** How often it may have been given, as far as the store knows. */
  readonly deliveryCount: number
}

export interface StoredDeadLetter {
  /** Its own, in the order in which they died. */
  readonly id: string
  /** The write's. */
  readonly writeId: string
  readonly key: string
  readonly value: Buffer
  readonly reason: string
  readonly deliveryCount: number
}

/** Of one partition. */
export interface WritePartitionState {
  backlog: number
  deadLetters: number
  /** Ids of the oldest and of the newest write; undefined where there is none. */
  first: string | undefined
  last: string | undefined
  /** By the store's clock. */
  now: number
}

/**
 * Where accepted writes wait, in partitions. One instance at a time may work on a partition: the one that holds its lease.
 * What a holder does says `undefined` or `false` where the lease is not its own any more; then nothing was done.
 */
export interface WriteBehindStore {
  /** @returns undefined where `most` writes wait already */
  add (partition: number, key: string, value: Buffer, most: number): Promise<{ id: string, backlog: number } | undefined>
  /** Tells that an instance lives for `ms` more. @returns how many do */
  heartbeat (instance: string, ms: number): Promise<number>
  deregister (instance: string): Promise<void>

  /** @returns the fence, or undefined where somebody else has the lease */
  acquire (partition: number, token: string, ms: number): Promise<number | undefined>
  renew (partition: number, token: string, ms: number): Promise<boolean>
  release (partition: number, token: string): Promise<void>

  /** Those that were taken and are not done, the oldest first. */
  pending (partition: number, token: string, after: string | undefined, count: number): Promise<StoredWrite[] | undefined>
  /** The next ones that were not taken yet. */
  take (partition: number, token: string, count: number): Promise<StoredWrite[] | undefined>
  /** Has the store know how often a write was given. */
  mark (partition: number, token: string, id: string, given: number): Promise<boolean>
  ack (partition: number, token: string, ids: readonly string[]): Promise<boolean>
  /**
   * Makes a dead letter of a write.
   *
   * @param covered - older writes of its key, in whose place it stood
   * @returns how many older dead letters had to go
   */
  deadLetter (partition: number, token: string, id: string, letter: { reason: string, given: number, covered: readonly string[], most: number }): Promise<number | undefined>

  state (partition: number): Promise<WritePartitionState>
  /** @param from - an id, or `-`: the first one */
  deadLetters (partition: number, from: string, count: number): Promise<StoredDeadLetter[]>
  /** Makes writes of dead letters, in this order, until `most` wait. @returns how many */
  replay (partition: number, ids: readonly string[], most: number): Promise<number>
  discard (partition: number, ids: readonly string[]): Promise<number>
}
