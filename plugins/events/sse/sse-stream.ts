import { Readable } from 'node:stream'
import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { Bytes, Milliseconds } from '../../shared/plugin/units.js'

interface SseStreamOptions {
  /** The interval of the comments that keep the connection open. */
  heartbeat: Milliseconds
  /** How much may be buffered before an event disconnects the client. */
  maxBuffer: Bytes
  /** Called when the client is disconnected because it reads too slowly. */
  onSlow: () => void
  /** Closes the connection, with whatever is still buffered. */
  cut: () => void
  clock: Clock
}

/** The buffered bytes up to which a stream accepts more without a pause. */
export const HIGH_WATER_MARK = 16 * 1024

/** How long a client may take to read buffered events after the response has ended. */
const FINISH_MS = 1000

/** The body of a response with server-sent events. It ends when the client disconnects, or reads too slowly. */
export class SseStream extends Readable {
  readonly #options: SseStreamOptions
  #heartbeat: Timer | undefined
  #pushed = 0
  #readBefore = 0
  #isOver = false
  #wake: (() => void) | undefined

  constructor (options: SseStreamOptions) {
    super({ highWaterMark: HIGH_WATER_MARK })
    this.#options = options
  }

  /** Starts the heartbeats. */
  begin (): void {
    this.#heartbeat = this.#options.clock.setInterval(() => this.#beat(), this.#options.heartbeat).unref()
  }

  /** Whether the stream accepts no more events. */
  get isOver (): boolean {
    return this.#isOver || this.destroyed
  }

  /** Sends a text. @returns whether there is room for more; otherwise {@link room} resolves when there is */
  write (text: string): boolean {
    if (this.isOver) return false
    if (this.readableLength > this.#options.maxBuffer) {
      this.#disconnect()
      return false
    }
    const bytes = Buffer.from(text)
    this.#pushed += bytes.length
    return this.push(bytes)
  }

  /** Resolves when there is room for more, or the stream is over. */
  async room (): Promise<void> {
    if (this.isOver) return
    await new Promise<void>(resolve => { this.#wake = resolve })
  }

  /**
   * Ends the response after its buffered events.
   *
   * @param timeout - how long the client may take to read them
   */
  finish (timeout: Milliseconds = FINISH_MS): void {
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

  /** Waits for pending socket writes first: after a stall of this process the client is not slow. */
  #beat (): void {
    setImmediate(() => this.#checkProgress())
  }

  /** Sends a comment, or disconnects a client that has read nothing since the last heartbeat. */
  #checkProgress (): void {
    if (this.isOver) return
    const read = this.#pushed - this.readableLength
    if (this.readableLength === 0) this.write(': \n\n')
    // A read count of 0 means that hooks still delay the head of the response.
    else if (read > 0 && read === this.#readBefore) this.#disconnect()
    this.#readBefore = read
  }

  #disconnect (): void {
    if (this.destroyed) return
    this.#options.onSlow()
    this.destroy()
  }
}

interface SseFields {
  id?: string | undefined
  event?: string | undefined
  /** JSON, which has no line breaks. */
  data: string
}

/** Formats one event. @see WHATWG HTML, section "Server-sent events" */
export function formatEvent ({ id, event, data }: SseFields): string {
  const idLine = id === undefined ? '' : `id: ${oneLine(id)}\n`
  const eventLine = event === undefined ? '' : `event: ${oneLine(event)}\n`
  return `${idLine}${eventLine}data: ${data}\n\n`
}

/** Replaces line breaks, which would begin another field, and NUL, for which browsers ignore an id. */
function oneLine (text: string): string {
  return text.replaceAll(/[\r\n\0]+/g, ' ')
}
