import { Readable } from 'node:stream'
import type { Clock, Timer } from '../../shared/plugin/clock.js'

interface SseStreamOptions {
  /** Milliseconds between two comments that keep the connection open. */
  heartbeat: number
  /** Bytes that may wait for the client when another event comes. */
  maxBuffer: number
  onSlow: () => void
  /** Ends the answer whatever still waits. */
  cut: () => void
  clock: Clock
}

/** Bytes up to which there is room for more. */
export const HIGH_WATER_MARK = 16 * 1024

/** How long a client may take over what waits when the answer ends. */
const FINISH_MS = 1000

/** The body of an answer with server-sent events. It ends when the client goes, or is too slow. */
export class SseStream extends Readable {
  readonly #options: SseStreamOptions
  #heartbeat: Timer | undefined
  #pushed = 0
  #takenBefore = 0
  #isOver = false
  #wake: (() => void) | undefined

  constructor (options: SseStreamOptions) {
    super({ highWaterMark: HIGH_WATER_MARK })
    this.#options = options
  }

  /** Begins with the heartbeats. */
  begin (): void {
    this.#heartbeat = this.#options.clock.setInterval(() => this.#beat(), this.#options.heartbeat).unref()
  }

  /** Whether nothing more can be written. */
  get isOver (): boolean {
    return this.#isOver || this.destroyed
  }

  /** Hands it to the client. @returns whether there is room for more; {@link room} says when */
  write (text: string): boolean {
    if (this.isOver) return false
    if (this.readableLength > this.#options.maxBuffer) {
      this.#giveUp()
      return false
    }
    const bytes = Buffer.from(text)
    this.#pushed += bytes.length
    return this.push(bytes)
  }

  /** Resolves when there is room for more, or when the stream is over. */
  async room (): Promise<void> {
    if (this.isOver) return
    await new Promise<void>(resolve => { this.#wake = resolve })
  }

  /**
   * Ends the answer; what waits is still sent, to who takes it soon.
   *
   * @param timeout - the milliseconds after which the answer is cut off
   */
  finish (timeout = FINISH_MS): void {
    if (this.isOver) return
    this.#isOver = true
    this.#options.clock.clearInterval(this.#heartbeat)
    this.#options.clock.setTimeout(this.#options.cut, timeout).unref()
    this.push(null)
    this.#wakeUp()
  }

  override _read (): void {
    this.#wakeUp()
  }

  override _destroy (error: Error | null, done: (error?: Error | null) => void): void {
    this.#options.clock.clearInterval(this.#heartbeat)
    this.#wakeUp()
    done(error)
  }

  #wakeUp (): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }

  /** After a stall of this process its sockets are written to first: the client is not slow because the process was. */
  #beat (): void {
    setImmediate(() => this.#judge())
  }

  #judge (): void {
    if (this.isOver) return
    const taken = this.#pushed - this.readableLength
    if (this.readableLength === 0) this.write(': \n\n')
    // Nothing is taken before the head of the response is sent, which hooks may hold up.
    else if (taken > 0 && taken === this.#takenBefore) this.#giveUp()
    this.#takenBefore = taken
  }

  #giveUp (): void {
    if (this.destroyed) return
    this.#options.onSlow()
    this.destroy()
  }
}
