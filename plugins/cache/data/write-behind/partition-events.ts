/** What a partition's writer tells of. */
export interface WritePartitionEvents {
  /** The store could not be asked, or can be again. */
  store (error: Error | undefined): void
  /** The source is out of reach, or takes something again. */
  source (error: Error | undefined): void
  failed (error: Error, writes: number): void
  /** `isOutage` of the app failed. */
  unjudged (error: Error): void
  /** `written` without those that were covered; `redelivered`: may have been written before by somebody who is gone. */
  count (what: 'written' | 'superseded' | 'redelivered', count: number): void
  died (write: { id: string, key: string, reason: string, given: number }, dropped: number): void
  /** It is not written by this process any more. */
  ended (isLost: boolean): void
}
