import type { Redis } from 'ioredis'
import type { CircuitBreaker } from './circuit-breaker.js'
import type { Watch } from './deadline.js'
import type { Connection, Progress } from './progress.js'

/** The connection that an operation was sent over; undefined where that is not known. It is asked for only where the operation waits. */
export type ConnectionOf = () => Redis | undefined

/** So long a patient operation waits at a time, and then looks whether to go on. */
const STEP_MS = 150
/** How long a patient operation waits beyond its deadline. */
export const MAX_EXTENSION_MS = 1500

/** For an operation of a plugin that fails open: its deadline holds, and what comes back meanwhile is noted. */
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
 * For an operation of a plugin that fails closed: it waits on while replies to others arrive over its connection, while this process is short of CPU,
 * or while Redis is known to be late. Where nothing comes back it ends at its deadline.
 */
export class Patience implements Watch {
  readonly #progress: Progress
  readonly #circuit: CircuitBreaker
  readonly #connectionOf: ConnectionOf
  #connection: Connection | undefined
  #moves = 0
  #extension: number

  /** @param before - what the same operation has waited for already, before it was repeated */
  constructor (progress: Progress, circuit: CircuitBreaker, connectionOf: ConnectionOf, before?: Patience) {
    this.#progress = progress
    this.#circuit = circuit
    this.#connectionOf = connectionOf
    this.#extension = before === undefined || before.#extension === 0 ? 0 : before.#extension + STEP_MS
  }

  /** Whether it waited for longer than its deadline. */
  get isExtended (): boolean {
    return this.#extension > 0
  }

  /** Whether it has waited for as long as it may. */
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
    return connection.moves !== this.#moves || progress.isBusy || (this.#circuit.failures > 0 && progress.isKnownLate(connection))
  }
}

/** For the probe of a circuit, whose late answer counts as well. */
export class ProbeWatch implements Watch {
  readonly #progress: Progress
  readonly #client: Redis
  readonly #circuit: CircuitBreaker
  isLate = false

  constructor (progress: Progress, circuit: CircuitBreaker, client: Redis) {
    this.#progress = progress
    this.#circuit = circuit
    this.#client = client
  }

  look (due: number | undefined): void {
    this.#progress.look(this.#client, due)
  }

  /** While nothing but the probe is under way, it finds out that the stall has become an outage. */
  goOn (): number {
    this.look(undefined)
    this.isLate = true
    this.#circuit.review()
    return this.#circuit.state === 'late' ? STEP_MS : 0
  }
}
