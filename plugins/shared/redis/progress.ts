import type { Redis } from 'ioredis'
import type { Clock } from '../plugin/clock.js'

/** A longer time between two looks counts as this much: the process was busy with something else, and could not have read a reply. */
const MAX_STEP_MS = 25
const LAG_WINDOW_MS = 1000
/** A timer that is late by less is no sign of a busy process: an idle one's are late by about a millisecond each, which many of them would add up. */
const MIN_LAG_MS = 5
/** A process that is late by so much within a second competes for its CPU, and so may Redis. */
const BUSY_MS = 100
/** An outage: so long nothing came back. A server that hangs is found within a second, and stalls of some hundred milliseconds are none. */
const OUTAGE_MS = 450
/** The same for a busy process, where Redis may be short of CPU as well. */
const BUSY_OUTAGE_MS = 2000

/** What came back over one connection. */
export interface Connection {
  /** How many looks found that something had come back. */
  moves: number
  /** `moves` when an operation on this connection failed last; -1: none has. */
  failedAt: number
  /** Milliseconds of this process's time in which nothing came back while something was waited for. */
  quiet: number
}

interface Watched extends Connection {
  stream: unknown
  bytes: number
  lookedAt: number
}

/**
 * Tells a stall from an outage, by what comes back from Redis and by how late this process is itself. It reads the byte counters of the
 * sockets, and only while an operation waits for longer than usual: a prompt reply costs nothing more.
 */
export class Progress {
  readonly #clock: Clock
  readonly #connections = new WeakMap<Redis, Watched>()
  #lookedAt = -Infinity
  #lagSeenUntil = -Infinity
  #windowEnds = -Infinity
  #lag = 0
  #lagBefore = 0
  /** As {@link Connection.quiet}, of all connections together. */
  quiet = 0

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** Whether this process was late lately. */
  get isBusy (): boolean {
    return this.#lag + this.#lagBefore >= BUSY_MS
  }

  /** Whether something came back within the time after which it would be an outage. */
  get isAlive (): boolean {
    return this.isAliveOver(this)
  }

  isAliveOver ({ quiet }: { quiet: number }): boolean {
    return quiet < (this.isBusy ? BUSY_OUTAGE_MS : OUTAGE_MS)
  }

  /** Whether a reply that failed an operation by coming late came after all. */
  isKnownLate ({ moves, failedAt }: Connection): boolean {
    return failedAt !== -1 && moves !== failedAt
  }

  /** An operation on this connection has failed. */
  fail (client: Redis | undefined): void {
    if (client === undefined) return
    const connection = this.#of(client)
    connection.failedAt = connection.moves
  }

  /** @param due - when the caller's timer should have fired, by the clock's `monotonic()` */
  look (client: Redis, due?: number): Connection {
    const now = this.#clock.monotonic()
    this.#noteLag(now, due)
    const connection = this.#of(client)
    if (hasMoved(connection, client)) {
      connection.moves++
      connection.quiet = this.quiet = 0
    } else {
      connection.quiet += Math.min(now - connection.lookedAt, MAX_STEP_MS)
      this.quiet += Math.min(now - this.#lookedAt, MAX_STEP_MS)
    }
    connection.lookedAt = this.#lookedAt = now
    return connection
  }

  #of (client: Redis): Watched {
    let connection = this.#connections.get(client)
    if (connection === undefined) {
      connection = { stream: client.stream, bytes: bytesOf(client), moves: 0, failedAt: -1, quiet: 0, lookedAt: this.#clock.monotonic() }
      this.#connections.set(client, connection)
    }
    return connection
  }

  /** Several that wait see the same stall, which counts once. */
  #noteLag (now: number, due: number | undefined): void {
    if (now >= this.#windowEnds) {
      this.#lagBefore = now < this.#windowEnds + LAG_WINDOW_MS ? this.#lag : 0
      this.#lag = 0
      this.#windowEnds = now + LAG_WINDOW_MS
    }
    if (due === undefined || now - due < MIN_LAG_MS) return
    this.#lag += Math.max(0, now - Math.max(due, this.#lagSeenUntil))
    this.#lagSeenUntil = now
  }
}

function hasMoved (connection: Watched, client: Redis): boolean {
  const { stream, bytes } = connection
  connection.stream = client.stream
  connection.bytes = bytesOf(client)
  // A connection that was made anew has a counter of its own.
  return stream === client.stream && bytes !== connection.bytes
}

/** A client that has not begun to connect has no stream, whatever its type says. */
function bytesOf (client: Redis): number {
  return Number(Reflect.get(client.stream ?? {}, 'bytesRead') ?? 0)
}
