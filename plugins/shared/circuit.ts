import type { Clock, Timer } from './clock.js'

/** What an observer sees of a circuit. */
export interface CircuitStatus {
  /** `open`: callers get their fallback at once. */
  readonly state: 'closed' | 'open'
  /** When the present state began, in milliseconds since the epoch. */
  readonly since: number
  /** How often the circuit has opened. */
  readonly opened: number
  /** Failures in a row until now. */
  readonly failures: number
  /** What failed last, or undefined. */
  readonly lastError: Error | undefined
  /** When a write was refused last, as to a replica, in milliseconds since the epoch; 0: never. */
  readonly refusedAt: number
}

export interface CircuitOptions {
  /** Failures in a row that open the circuit. */
  threshold: number
  /** Milliseconds between two probes. */
  probeInterval: number
  /** Milliseconds within which opening again is flapping, and for which the other side then has to be there until it is trusted. */
  flapWindow: number
  stableFor: number
  /** Asks the other side once; it is back when this resolves. */
  probe: () => Promise<unknown>
  onChange: (status: CircuitStatus) => void
  clock: Clock
}

/**
 * A circuit breaker that opens after a run of failures and closes by a probe of its own, so that no caller
 * has to wait in order to find out that the other side is back.
 *
 * At most one probe is under way: against a server that hangs, a single one stays queued, and its late answer
 * is the news that the server is back. One that keeps coming and going is back when it has stayed for a while.
 */
export class Circuit {
  #options: CircuitOptions
  #clock: Clock
  #status: { -readonly [K in keyof CircuitStatus]: CircuitStatus[K] }
  #timer: Timer | undefined
  #probing = false
  #isFlapping = false
  /** Since when each probe was answered. */
  #goodSince: number | undefined
  #stopped = false

  constructor (options: CircuitOptions) {
    this.#options = options
    this.#clock = options.clock
    this.#status = { state: 'closed', since: this.#clock.now(), opened: 0, failures: 0, lastError: undefined, refusedAt: 0 }
  }

  get isOpen (): boolean {
    return this.#status.state === 'open'
  }

  /** When it was open last, or a write was refused, in milliseconds since the epoch: Infinity while it is open, 0 for never. */
  get troubledAt (): number {
    const { state, opened, since, refusedAt } = this.#status
    return state === 'open' ? Infinity : Math.max(opened > 0 ? since : 0, refusedAt)
  }

  get status (): CircuitStatus {
    return { ...this.#status }
  }

  success (): void {
    this.#status.failures = 0
  }

  /** It answers, but takes no writes. */
  refusal (): void {
    this.success()
    this.#status.refusedAt = this.#clock.now()
  }

  failure (error: Error): void {
    this.#status.failures++
    this.#status.lastError = error
    if (this.#status.failures >= this.#options.threshold && !this.isOpen) this.#open()
  }

  /** Probes at once where the circuit is open: call it when something says that the other side is back. */
  probeNow (): void {
    if (!this.isOpen || this.#probing || this.#stopped) return
    this.#clock.clearTimeout(this.#timer)
    this.#probing = true
    this.#options.probe().then(() => this.#good(), (error: Error) => this.#bad(error))
  }

  /** The other side was lost, if only for a moment. */
  disturbed (): void {
    this.#goodSince = undefined
  }

  /** Ends the probing; the state stays as it is. */
  stop (): void {
    this.#stopped = true
    this.#clock.clearTimeout(this.#timer)
  }

  #good (): void {
    this.#probing = false
    this.#goodSince ??= this.#clock.now()
    if (this.#isFlapping && this.#clock.now() - this.#goodSince < this.#options.stableFor) this.#schedule()
    else this.#close()
  }

  #bad (error: Error): void {
    this.#probing = false
    this.#status.lastError = error
    this.disturbed()
    this.#schedule()
  }

  #open (): void {
    const { opened, since } = this.#status
    this.#isFlapping = opened > 0 && this.#clock.now() - since < this.#options.flapWindow
    this.disturbed()
    this.#status.opened++
    this.#change('open')
    this.#schedule()
  }

  #close (): void {
    if (this.#stopped) return
    this.#status.failures = 0
    this.#change('closed')
  }

  #change (state: CircuitStatus['state']): void {
    this.#status.state = state
    this.#status.since = this.#clock.now()
    this.#options.onChange(this.status)
  }

  #schedule (): void {
    if (this.#stopped) return
    this.#clock.clearTimeout(this.#timer)
    this.#timer = this.#clock.setTimeout(() => this.probeNow(), this.#options.probeInterval)
    this.#timer.unref()
  }
}
