/** What waits for a reader; where too much does, the oldest goes. It ends with the signal. */
export class LatestQueue<T> {
  readonly #max: number
  readonly #signal: AbortSignal | undefined
  #waiting: T[] = []
  #gap = false
  #wake: (() => void) | undefined

  constructor (max: number, signal: AbortSignal | undefined) {
    this.#max = max
    this.#signal = signal
    signal?.addEventListener('abort', () => this.#wake?.(), { once: true })
  }

  push (item: T): void {
    this.#waiting.push(item)
    if (this.#waiting.length > this.#max) {
      this.#waiting.shift()
      this.#gap = true
    }
    this.#wake?.()
  }

  /** With whether some before it are missing. */
  async * [Symbol.asyncIterator] (): AsyncGenerator<{ item: T, gap?: true }> {
    while (this.#signal?.aborted !== true) {
      const item = this.#waiting.shift()
      if (item === undefined) {
        await new Promise<void>(resolve => { this.#wake = resolve })
        continue
      }
      const gap = this.#gap
      this.#gap = false
      yield { item, ...gap && { gap } }
    }
  }
}
