import type { Clock, Timer } from '../plugin/clock.js'
import { MAX_EXTENSION_MS } from './patience.js'

/** What an observer sees of a circuit. */
export interface CircuitStatus {
  /**
   * `open`: nothing comes back from Redis, and all callers take their fallback at once. `late`: replies arrive, but not in time; callers that fail
   * open take their fallback at once, those that fail closed wait longer.
   */
  readonly state: 'closed' | 'late' | 'open'
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
  /** Failures in a row that end the state `closed`. */
  threshold: number
  /** Milliseconds between two probes. */
  probeInterval: number
  /** Milliseconds within which failing again is flapping, and for which the other side then has to be there until it is trusted. */
  flapWindow: number
  stableFor: number
  /** Asks the other side once; it is back when this resolves, with whether that was in time. */
  probe: () => Promise<boolean>
  /** Whether what failed so is a stall: something comes back from the other side, only late. */
  isStall: (error: Error | undefined) => boolean
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
export class CircuitBreaker {
  #options: CircuitOptions
  #clock: Clock
  #status: { -readonly [K in keyof CircuitStatus]: CircuitStatus[K] }
  #timer: Timer | undefined
  #probing = false
  #probedAt = 0
  #isFlapping = false
  /** Since when each probe was answered in time. This and the times below are by the clock's `monotonic()`. */
  #goodSince: number | undefined
  #since: number
  #refusedAt = -Infinity
  #hasFailed = false
  /** How many that waited for as long as they may got no reply, in a row. */
  #inVain = 0
  #stopped = false
  #back: { promise: Promise<void>, resolve: () => void } | undefined

  constructor (options: CircuitOptions) {
    this.#options = options
    this.#clock = options.clock
    this.#since = this.#clock.monotonic()
    this.#status = { state: 'closed', since: this.#clock.now(), opened: 0, failures: 0, lastError: undefined, refusedAt: 0 }
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

  /** When it was not closed last, or a write was refused, by the clock's `monotonic()`: Infinity while it is not closed, -Infinity for never. */
  get troubledAt (): number {
    if (!this.isClosed) return Infinity
    return Math.max(this.#hasFailed ? this.#since : -Infinity, this.#refusedAt)
  }

  /** For how many milliseconds it has been in its state. */
  get age (): number {
    return this.#clock.monotonic() - this.#since
  }

  get status (): CircuitStatus {
    return { ...this.#status }
  }

  success (): void {
    this.#status.failures = 0
    this.#inVain = 0
  }

  /** A reply came after all. */
  lateSuccess (): void {
    this.#inVain = 0
  }

  /**
   * Call it before `failure`. Replies that nobody waits for any more are an outage, although they arrive: where more is asked than the other side can
   * answer, its queue would grow for as long as it is asked.
   */
  waitedInVain (): void {
    this.#inVain++
  }

  /** It answers, but takes no writes. */
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

  /** Looks again whether it is a stall, while that lasts. */
  review (): void {
    if (this.state === 'late') this.#judge()
  }

  /** Resolves when it is not open any more. */
  whenBack (): Promise<void> {
    if (this.state !== 'open') return Promise.resolve()
    this.#back ??= withResolver()
    return this.#back.promise
  }

  /** Probes at once where the circuit is not closed: call it when something says that the other side is back. */
  probeNow (): void {
    if (this.isClosed || this.#probing || this.#stopped) return
    this.#clock.clearTimeout(this.#timer)
    this.#probing = true
    this.#probedAt = this.#clock.monotonic()
    this.#options.probe().then(isPrompt => this.#good(isPrompt), (error: Error) => this.#bad(error))
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

  #good (isPrompt: boolean): void {
    this.#probing = false
    if (this.#stopped) return
    if (!isPrompt) {
      this.disturbed()
      // One that is later than anything waits says only that the next one may come in time.
      if (this.#clock.monotonic() - this.#probedAt <= MAX_EXTENSION_MS) this.#enter('late')
      return this.probeNow()
    }
    this.#goodSince ??= this.#clock.monotonic()
    if (this.#isFlapping && this.#clock.monotonic() - this.#goodSince < this.#options.stableFor) this.#schedule()
    else this.#close()
  }

  #bad (error: Error): void {
    this.#probing = false
    this.#status.lastError = error
    this.disturbed()
    this.#judge()
    this.#schedule()
  }

  /** After failures. */
  #judge (): void {
    const { state, lastError } = this.#status
    if (state === 'open') return
    const isStall = this.#inVain < this.#options.threshold && this.#options.isStall(lastError)
    if (state === 'late' && isStall) return
    if (state === 'closed') {
      this.#isFlapping = this.#hasFailed && this.age < this.#options.flapWindow
      this.#hasFailed = true
      this.disturbed()
    }
    this.#enter(isStall ? 'late' : 'open')
    if (isStall) this.probeNow()
    else if (!this.#probing) this.#schedule()
  }

  #close (): void {
    this.#status.failures = 0
    this.#enter('closed')
  }

  #enter (state: CircuitStatus['state']): void {
    if (state === this.state) return
    this.#inVain = 0
    if (state === 'open') this.#status.opened++
    this.#status.state = state
    this.#status.since = this.#clock.now()
    this.#since = this.#clock.monotonic()
    if (state !== 'open') {
      this.#back?.resolve()
      this.#back = undefined
    }
    this.#options.onChange(this.status)
  }

  #schedule (): void {
    if (this.#stopped) return
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
