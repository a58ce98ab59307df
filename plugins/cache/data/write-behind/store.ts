import type { InstanceRegistry, PartitionQueue } from '../../../shared/work-queue/queue.js'

interface WritePartitionState {
  backlog: number
  deadLetters: number
  /** The ids of the oldest and of the newest accepted write; undefined where none waits. */
  first: string | undefined
  last: string | undefined
  /** By the store's clock, in milliseconds since the epoch. */
  now: number
}

/** Stores accepted writes, in partitions, until they are written or dead. */
export interface WriteBehindStore {
  readonly instances: InstanceRegistry
  /** Accepts a write. Returns undefined where the partition's backlog is full. */
  add (partition: number, key: string, value: Buffer): Promise<{ id: string, backlog: number } | undefined>
  queue (partition: number): PartitionQueue
  state (partition: number): Promise<WritePartitionState>
}
