import { Readable } from 'node:stream'

interface SseStreamOptions {
  /** Milliseconds between two comments that keep the connection open. */
  heartbeat: number
  /** Bytes that may wait for the client when another event comes. */
  maxBuffer: number
  onSlow: () => void
}

/** Bytes up to which there is room for more. */
export const HIGH_WATER_MARK = 16 * 1024

/** The body of an answer with server-sent events. It ends when the client goes, or is too slow. */
export class SseStream extends Readable {
  readonly #options: SseStreamOptions
  readonly #heartbeat: NodeJS.Timeout
  #pushed = 0
  #takenBefore = 0
  #isOver = false
  #wake: (() => void) | undefined

  constructor (options: SseStreamOptions) {
    super({ highWaterMark: HIGH_WATER_MARK })
    this.#options = options
    this.#heartbeat = setInterval(() => this.#beat(), options.heartbeat)
    this.#heartbeat.unref()
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

  /** Ends the answer; what waits is still sent. */
  finish (): void {
    if (this.isOver) return
    this.#isOver = true
    clearInterval(this.#heartbeat)
    this.push(null)
    this.#wakeUp()
  }

  override _read (): void {
    this.#wakeUp()
  }

  override _destroy (error: Error | null, done: (error?: Error | null) => void): void {
    clearInterval(this.#heartbeat)
    this.#wakeUp()
    done(error)
  }

  #wakeUp (): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }

  #beat (): void {
    const taken = this.#pushed - this.readableLength
    if (this.readableLength === 0) this.write(': \n\n')
    else if (taken === this.#takenBefore) this.#giveUp()
    this.#takenBefore = taken
  }

  #giveUp (): void {
    if (this.destroyed) return
    this.#options.onSlow()
    this.destroy()
  }
}
