export type Row = Record<string, unknown>

/** Runs a statement and gives its rows. */
export type Query = <T extends Row>(sql: string, params?: unknown[]) => Promise<T[]>
