/** One event of a stream. */
export interface StreamEvent<T> {
  /** The cursor after which reading can go on. */
  id: string
  key: string | undefined
  data: T
  /** When it was appended, in milliseconds since the epoch. */
  at: number
  /** Events before it are missing. */
  gap?: true
}

/** Events that are kept, in order. */
export interface EventStream<T> {
  append (data: T, options?: { key?: string }): Promise<string>
  /** From the event after `after` on, else from now on, until the signal aborts. */
  read (options?: { after?: string, signal?: AbortSignal }): AsyncIterable<StreamEvent<T>>
}
