import type { Clock, Timer } from '../plugin/clock.js'
import type { Milliseconds } from '../plugin/units.js'
import { MAX_EXTENSION_MS } from './patience.js'

/** The state of a circuit. */
export interface CircuitStatus {
  /**
   * - `closed`: Redis is used
   * - `late`: replies arrive, but not in time. Callers that fail open use their fallback at once, those that fail
   * closed wait longer
   * - `open`: no replies arrive, and all callers use their fallback at once
   */
  readonly state: 'closed' | 'late' | 'open'
  /** When this state began, in milliseconds since the epoch. */
  readonly since: number
  /** How often the circuit has opened. */
  readonly opened: number
  /** The present number of failures in a row. */
  readonly failures: number
  /** The last failure. */
  readonly lastError: Error | undefined
  /** When a write was refused last (`READONLY`, `MISCONF`, `NOREPLICAS`), in milliseconds since the epoch; 0: never. */
  readonly refusedAt: number
}

interface CircuitOptions {
  /** The number of failures in a row that opens the circuit. */
  threshold: number
  probeInterval: Milliseconds
  /** A server that fails again within this time is flapping. */
  flapWindow: Milliseconds
  /** How long the probes of a flapping server must succeed before the circuit closes. */
  stableFor: Milliseconds
  /** Sends one command to the server. It resolves with whether the reply was in time, and rejects without one. */
  probe: () => Promise<boolean>
  /** Whether this failure is a stall: replies arrive, only late. */
  isStall: (error: Error | undefined) => boolean
  onChange: (status: CircuitStatus) => void
  clock: Clock
}

/**
 * A circuit breaker. It opens after a number of failures in a row, and its own probes close it, so that no caller waits
 * in order to find out that the server is back.
 *
 * At most one probe is in flight: with a server that hangs a single one stays queued, and its late reply says that the
 * server is back. The circuit of a flapping server closes when the probes have succeeded for a while.
 */
export class CircuitBreaker {
  #options: CircuitOptions
  #clock: Clock
  #status: { -readonly [K in keyof CircuitStatus]: CircuitStatus[K] }
  #timer: Timer | undefined
  #isProbing = false
  #probedAt = 0
  #isFlapping = false
  /** Since when each probe has succeeded in time. This and the times below are by the clock's `monotonic()`. */
  #goodSince: number | undefined
  #since: number
  #refusedAt = -Infinity
  #hasFailed = false
  /** The number of operations in a row that waited as long as they may without a reply. */
  #waitedInVain = 0
  #isStopped = false
  #whenBack: { promise: Promise<void>, resolve: () => void } | undefined

  constructor (options: CircuitOptions) {
    this.#options = options
    this.#clock = options.clock
    this.#since = this.#clock.monotonic()
    this.#status = {
      state: 'closed', since: this.#clock.now(), opened: 0, failures: 0, lastError: undefined, refusedAt: 0
    }
  }

  get state (): CircuitStatus['state'] {
    return this.#status.state
  }

  get isClosed (): boolean {
    return this.#status.state === 'closed'
  }

  get failures (): number {
    return this.#status.failures
  }

  get lastError (): Error | undefined {
    return this.#status.lastError
  }

  /**
   * When the circuit was last not closed, or a write refused, by the clock's `monotonic()`. Infinity while it is not
   * closed, -Infinity for never.
   */
  get troubledAt (): number {
    if (!this.isClosed) return Infinity
    return Math.max(this.#hasFailed ? this.#since : -Infinity, this.#refusedAt)
  }

  /** How long the circuit has been in its state. */
  get age (): Milliseconds {
    return this.#clock.monotonic() - this.#since
  }

  get status (): CircuitStatus {
    return { ...this.#status }
  }

  success (): void {
    this.#status.failures = 0
    this.#waitedInVain = 0
  }

  /** A reply arrived after the deadline. */
  lateSuccess (): void {
    this.#waitedInVain = 0
  }

  /**
   * Call it before `failure`. Replies that arrive when no caller waits for them any more are an outage: the queue of an
   * overloaded server would grow without end.
   */
  waitedInVain (): void {
    this.#waitedInVain++
  }

  /** The server replies, but refuses writes. */
  refusal (): void {
    this.success()
    this.#status.refusedAt = this.#clock.now()
    this.#refusedAt = this.#clock.monotonic()
  }

  failure (error: Error): void {
    this.#status.failures++
    this.#status.lastError = error
    if (this.#status.failures >= this.#options.threshold) this.#judge()
  }

  /** Judges again whether the failures are a stall, while the circuit is late. */
  review (): void {
    if (this.state === 'late') this.#judge()
  }

  /** Resolves when the circuit is no longer open. */
  whenBack (): Promise<void> {
    if (this.state !== 'open') return Promise.resolve()
    this.#whenBack ??= withResolver()
    return this.#whenBack.promise
  }

  /** Probes at once, unless the circuit is closed. Call it when the server may be back. */
  probeNow (): void {
    if (this.isClosed || this.#isProbing || this.#isStopped) return
    this.#clock.clearTimeout(this.#timer)
    this.#isProbing = true
    this.#probedAt = this.#clock.monotonic()
    this.#options.probe().then(isPrompt => this.#good(isPrompt), (error: Error) => this.#bad(error))
  }

  /** The connection was lost, if only for a moment. */
  disturbed (): void {
    this.#goodSince = undefined
  }

  /** Ends the probes. The state stays as it is. */
  stop (): void {
    this.#isStopped = true
    this.#clock.clearTimeout(this.#timer)
  }

  #good (isPrompt: boolean): void {
    this.#isProbing = false
    if (this.#isStopped) return
    if (!isPrompt) {
      this.disturbed()
      // A reply later than any operation waits shows only that the next one may be in time.
      if (this.#clock.monotonic() - this.#probedAt <= MAX_EXTENSION_MS) this.#enter('late')
      return this.probeNow()
    }
    this.#goodSince ??= this.#clock.monotonic()
    if (this.#isFlapping && this.#clock.monotonic() - this.#goodSince < this.#options.stableFor) this.#schedule()
    else this.#close()
  }

  #bad (error: Error): void {
    this.#isProbing = false
    this.#status.lastError = error
    this.disturbed()
    this.#judge()
    this.#schedule()
  }

  /** Opens the circuit after failures: as `late` for a stall, otherwise as `open`. */
  #judge (): void {
    const { state, lastError } = this.#status
    if (state === 'open') return
    const isStall = this.#waitedInVain < this.#options.threshold && this.#options.isStall(lastError)
    if (state === 'late' && isStall) return
    if (state === 'closed') {
      this.#isFlapping = this.#hasFailed && this.age < this.#options.flapWindow
      this.#hasFailed = true
      this.disturbed()
    }
    this.#enter(isStall ? 'late' : 'open')
    if (isStall) this.probeNow()
    else if (!this.#isProbing) this.#schedule()
  }

  #close (): void {
    this.#status.failures = 0
    this.#enter('closed')
  }

  #enter (state: CircuitStatus['state']): void {
    if (state === this.state) return
    this.#waitedInVain = 0
    if (state === 'open') this.#status.opened++
    this.#status.state = state
    this.#status.since = this.#clock.now()
    this.#since = this.#clock.monotonic()
    if (state !== 'open') {
      this.#whenBack?.resolve()
      this.#whenBack = undefined
    }
    this.#options.onChange(this.status)
  }

  #schedule (): void {
    if (this.#isStopped) return
    this.#clock.clearTimeout(this.#timer)
    this.#timer = this.#clock.setTimeout(() => this.probeNow(), this.#options.probeInterval)
    this.#timer.unref()
  }
}

function withResolver (): { promise: Promise<void>, resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}
