export type Row = Record<string, unknown>

/** Runs a statement, and returns its rows. */
export type Query = <T extends Row>(sql: string, params?: unknown[]) => Promise<T[]>

/** PostgreSQL, on a server or embedded in this process. */
export interface Database {
  query: Query
  /** Runs `work` in one transaction. */
  transaction <T> (work: (query: Query) => Promise<T>): Promise<T>
  /**
   * Calls `onMessage` for each NOTIFY on the channel.
   *
   * @param onStart - called whenever listening starts, also after a lost connection: earlier messages have been missed
   */
  listen (channel: string, onMessage: (payload: string) => void, onStart: () => void): Promise<void>
  /** Saves the present content for the next start, if a snapshot is configured. */
  saveSnapshot? (): Promise<void>
  close (): Promise<void>
}
