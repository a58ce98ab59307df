import type { Milliseconds } from '../plugin/units.js'

/** The stream that an entry lies in: the log itself, or the dead letters of a group that are replayed. */
export type QueueSource = 'log' | 'again'

/** A message as it was stored. */
export interface StoredMessage {
  /** `{milliseconds}-{number}`, greater than the ids of all earlier messages of its partition. */
  readonly id: string
  /** Its number in its partition, from 1, without gaps; NaN where the queue does not number messages. */
  readonly n: number
  readonly key: string | undefined
  readonly value: Buffer
}

/** The entry by which a message is acknowledged. */
export interface MessageRef {
  readonly source: QueueSource
  /** The id of its entry in `source`. A replayed message keeps its `id` and gets a new entry. */
  readonly entryId: string
}

/** A message that was taken by the holder of a lease. */
export interface TakenMessage extends StoredMessage, MessageRef {
  /** How often it may have been delivered, as far as the store knows. */
  readonly deliveryCount: number
}

export interface StoredDeadLetter extends StoredMessage {
  /** The dead letter's own id; increases within a partition. */
  readonly id: string
  readonly messageId: string
  readonly reason: string
  readonly deliveryCount: number
}

interface MessagePage {
  readonly messages: TakenMessage[]
  /** The cursor of the next page; undefined after the last one. */
  readonly next: string | undefined
}

/**
 * One partition of a work queue, for one group of consumers. One instance at a time consumes it: the holder of the
 * lease. A method that takes a `token` returns `undefined` or `false`, and does nothing, once the lease has passed to
 * another holder.
 */
export interface PartitionQueue {
  /** Returns the fencing token, or undefined while another instance holds the lease. */
  acquire (token: string, ms: Milliseconds): Promise<number | undefined>
  renew (token: string, ms: Milliseconds): Promise<boolean>
  release (token: string): Promise<void>

  /**
   * Returns a page of the messages that were taken and not acknowledged, the oldest first. @param after - the cursor of
   * the page
   */
  pending (token: string, after: string | undefined, count: number): Promise<MessagePage | undefined>
  /** Takes the next messages that were never taken. */
  take (token: string, count: number): Promise<TakenMessage[] | undefined>
  /** Stores how often a message was delivered. */
  mark (token: string, message: TakenMessage, deliveryCount: number): Promise<boolean>
  ack (token: string, messages: readonly MessageRef[]): Promise<boolean>
  /** Moves a message to the dead letters. Returns how many older dead letters were dropped for it. */
  deadLetter (token: string, message: TakenMessage, reason: string, deliveryCount: number): Promise<number | undefined>

  /** Lists dead letters, the oldest first. @param from - an id, or `-` for the first one */
  deadLetters (from: string, count: number): Promise<StoredDeadLetter[]>
  deadLetterCount (): Promise<number>
  /** Makes messages of dead letters, in this order. Returns how many; fewer where the queue is full. */
  replay (ids: readonly string[]): Promise<number>
  discard (ids: readonly string[]): Promise<number>
}

/** The live instances that share the partitions of a queue. */
export interface InstanceRegistry {
  /** Registers an instance for the next `ms`. Returns how many instances are live. */
  heartbeat (instance: string, ms: Milliseconds): Promise<number>
  deregister (instance: string): Promise<void>
}
