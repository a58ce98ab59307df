/**
 * A length of time in milliseconds. Names of such fields and constants end in `Ms` where the type is not beside them.
 */
export type Milliseconds = number

/** A length of time in whole seconds, as HTTP header fields and TTLs of keys state it. */
export type Seconds = number

/** A size in bytes. */
export type Bytes = number
