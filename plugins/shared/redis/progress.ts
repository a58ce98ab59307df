import type { Clock } from '../plugin/clock.js'
import type { Milliseconds } from '../plugin/units.js'
import type { RedisNode } from './port.js'

/** A longer time between two looks counts as this: the process was busy, and could not have read a reply. */
const MAX_STEP_MS = 25
const LAG_WINDOW_MS = 1000
/**
 * A timer that is late by less does not show a busy process: each timer of an idle one is late by about a millisecond.
 */
const MIN_LAG_MS = 5
/** A process that is late by this time within a second competes for its CPU, and so may Redis. */
const BUSY_MS = 100
/**
 * Without replies for this time, an outage is assumed: a server that hangs is found within a second, and a short stall
 * is no outage.
 */
const OUTAGE_MS = 450
/** The same for a busy process: Redis may be short of CPU as well. */
const BUSY_OUTAGE_MS = 2000

/** The replies over one connection. */
export interface Connection {
  /** The number of looks that found new bytes. */
  moves: number
  /** The `moves` at the last failure of an operation on this connection; -1: none failed. */
  failedAt: number
  /** How long no bytes arrived while operations waited, in time of this process. */
  quiet: Milliseconds
}

interface Watched extends Connection {
  socket: object | undefined
  bytes: number
  lookedAt: number
}

/**
 * Distinguishes a stall from an outage, by the bytes that arrive from Redis and by how late this process itself is. It
 * reads the sockets' byte counters only while an operation waits longer than usual: a prompt reply costs nothing.
 */
export class Progress {
  readonly #clock: Clock
  readonly #connections = new WeakMap<RedisNode, Watched>()
  #lookedAt = -Infinity
  #lagCountedUntil = -Infinity
  #windowEnds = -Infinity
  #lag = 0
  #lagBefore = 0
  /** {@link Connection.quiet} of all connections together. */
  quiet = 0

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** Whether this process was late within the last two seconds. */
  get isBusy (): boolean {
    return this.#lag + this.#lagBefore >= BUSY_MS
  }

  /** Whether bytes arrived lately enough that there is no outage. */
  get isAlive (): boolean {
    return this.isAliveOver(this)
  }

  isAliveOver ({ quiet }: { quiet: number }): boolean {
    return quiet < (this.isBusy ? BUSY_OUTAGE_MS : OUTAGE_MS)
  }

  /** Whether bytes have arrived since an operation failed, so that its reply was only late. */
  isKnownLate ({ moves, failedAt }: Connection): boolean {
    return failedAt !== -1 && moves !== failedAt
  }

  /** An operation on this connection has failed. */
  fail (client: RedisNode | undefined): void {
    if (client === undefined) return
    const connection = this.#of(client)
    connection.failedAt = connection.moves
  }

  /** @param due - when the caller's timer should have fired, by the clock's `monotonic()` */
  look (client: RedisNode, due?: number): Connection {
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

  #of (client: RedisNode): Watched {
    let connection = this.#connections.get(client)
    if (connection === undefined) {
      connection = {
        socket: client.socket,
        bytes: client.received,
        moves: 0,
        failedAt: -1,
        quiet: 0,
        lookedAt: this.#clock.monotonic()
      }
      this.#connections.set(client, connection)
    }
    return connection
  }

  /** Several operations notice the same stall, which counts once. */
  #noteLag (now: number, due: number | undefined): void {
    if (now >= this.#windowEnds) {
      this.#lagBefore = now < this.#windowEnds + LAG_WINDOW_MS ? this.#lag : 0
      this.#lag = 0
      this.#windowEnds = now + LAG_WINDOW_MS
    }
    if (due === undefined || now - due < MIN_LAG_MS) return
    this.#lag += Math.max(0, now - Math.max(due, this.#lagCountedUntil))
    this.#lagCountedUntil = now
  }
}

function hasMoved (connection: Watched, client: RedisNode): boolean {
  const { socket, bytes } = connection
  connection.socket = client.socket
  connection.bytes = client.received
  // A new connection has a counter of its own.
  return socket === connection.socket && bytes !== connection.bytes
}
