import type { CircuitBreaker } from './circuit-breaker.js'
import type { Watch } from './deadline.js'
import type { RedisNode } from './port.js'
import type { Connection, Progress } from './progress.js'

/**
 * Returns the connection that an operation was sent over; undefined if that is unknown. Called only while the operation
 * waits.
 */
export type ConnectionOf = () => RedisNode | undefined

/** A patient operation extends its wait by this time, and then decides again. */
const STEP_MS = 150
/** The longest time that a patient operation waits beyond its deadline. */
export const MAX_EXTENSION_MS = 1500

/** For an operation of a plugin that fails open: its deadline holds, and arriving replies are noted meanwhile. */
export class Impatience implements Watch {
  readonly isExtended = false
  readonly isUsedUp = false
  readonly #progress: Progress
  readonly #connectionOf: ConnectionOf

  constructor (progress: Progress, connectionOf: ConnectionOf) {
    this.#progress = progress
    this.#connectionOf = connectionOf
  }

  look (due: number | undefined): void {
    const client = this.#connectionOf()
    if (client !== undefined) this.#progress.look(client, due)
  }

  goOn (): number {
    this.look(undefined)
    return 0
  }
}

/**
 * For an operation of a plugin that fails closed. It waits longer while other replies arrive over its connection, while
 * this process is short of CPU, or while Redis is known to be late. If no replies arrive it ends at its deadline.
 */
export class Patience implements Watch {
  readonly #progress: Progress
  readonly #circuit: CircuitBreaker
  readonly #connectionOf: ConnectionOf
  #connection: Connection | undefined
  #moves = 0
  #extension: number

  /** @param before - the patience of the same operation before it was repeated */
  constructor (progress: Progress, circuit: CircuitBreaker, connectionOf: ConnectionOf, before?: Patience) {
    this.#progress = progress
    this.#circuit = circuit
    this.#connectionOf = connectionOf
    this.#extension = before === undefined || before.#extension === 0 ? 0 : before.#extension + STEP_MS
  }

  /** Whether the operation waited longer than its deadline. */
  get isExtended (): boolean {
    return this.#extension > 0
  }

  /** Whether the operation has waited as long as it may. */
  get isUsedUp (): boolean {
    return this.#extension >= MAX_EXTENSION_MS
  }

  look (due: number | undefined): void {
    const client = this.#connectionOf()
    if (client === undefined) return
    const isFirst = this.#connection === undefined
    this.#connection = this.#progress.look(client, due)
    if (isFirst) this.#moves = this.#connection.moves
  }

  goOn (): number {
    this.look(undefined)
    if (this.#circuit.state === 'open' || this.isUsedUp || !this.#isWorthIt()) return 0
    this.#moves = this.#connection?.moves ?? 0
    this.#extension += STEP_MS
    return STEP_MS
  }

  #isWorthIt (): boolean {
    const connection = this.#connection
    const progress = this.#progress
    if (connection === undefined) return progress.isBusy
    if (!progress.isAliveOver(connection)) return false
    return connection.moves !== this.#moves || progress.isBusy ||
      (this.#circuit.failures > 0 && progress.isKnownLate(connection))
  }
}

/** For the probe of a circuit, whose late reply counts as well. */
export class ProbeWatch implements Watch {
  readonly #progress: Progress
  readonly #client: RedisNode
  readonly #circuit: CircuitBreaker
  isLate = false

  constructor (progress: Progress, circuit: CircuitBreaker, client: RedisNode) {
    this.#progress = progress
    this.#circuit = circuit
    this.#client = client
  }

  look (due: number | undefined): void {
    this.#progress.look(this.#client, due)
  }

  /** While only the probe is in flight, this finds out that the stall has become an outage. */
  goOn (): number {
    this.look(undefined)
    this.isLate = true
    this.#circuit.review()
    return this.#circuit.state === 'late' ? STEP_MS : 0
  }
}
